#include "router/compute_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/shard_group.h"

namespace msa::router {

void ComputePool::Add(std::string name, rpc::ComputeNode* node) {
  absl::MutexLock lock(&mutex_);
  nodes_.push_back({std::move(name), node});
}

int ComputePool::size() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(nodes_.size());
}

int ComputePool::Take(const std::vector<bool>& tried) {
  absl::MutexLock lock(&mutex_);
  int best = -1;
  for (int i = 0; i < static_cast<int>(nodes_.size()); ++i) {
    if (i < static_cast<int>(tried.size()) && tried[i]) continue;
    if (best < 0 || std::pair(nodes_[i].running, nodes_[i].last_used) <
                        std::pair(nodes_[best].running, nodes_[best].last_used)) {
      best = i;
    }
  }
  if (best < 0) return best;
  ++nodes_[best].running;
  nodes_[best].last_used = ++calls_;
  return best;
}

void ComputePool::Release(int index) {
  absl::MutexLock lock(&mutex_);
  --nodes_[index].running;
}

absl::Status ComputePool::Call(const rpc::CallContext& context,
                               const std::function<absl::Status(rpc::ComputeNode&)>& call,
                               const std::function<bool()>& may_retry) {
  absl::Status status = absl::UnavailableError("no compute node is configured");
  std::vector<bool> tried(size());
  while (true) {
    const int index = Take(tried);
    if (index < 0) return status;
    rpc::ComputeNode* node;
    std::string name;
    {
      absl::MutexLock lock(&mutex_);
      node = nodes_[index].node;
      name = nodes_[index].name;
    }
    status = call(*node);
    Release(index);
    // Of several, which one runs another model is what must be known to mend it.
    if (absl::IsFailedPrecondition(status) && size() > 1) {
      return absl::Status(
          status.code(), absl::StrReplaceAll(status.message(),
                                             {{"this node", StrCat("compute node '", name, "'")}}));
    }
    // Another node would miss the same shard.
    if (!absl::IsUnavailable(status) || IsAboutShard(status)) return status;
    if (!absl::StrContains(status.message(), "compute node '")) {
      status = absl::UnavailableError(
          StrCat("compute node '", name, "': ", std::string(status.message())));
    }
    if (may_retry && !may_retry()) return status;
    if (context.Cancelled() || absl::Now() >= context.deadline) return status;
    tried.resize(std::max<size_t>(tried.size(), index + 1));
    tried[index] = true;
  }
}

absl::StatusOr<rpc::ModelInfo> ComputePool::Info(const rpc::CallContext& context) {
  rpc::ModelInfo info;
  MSA_RETURN_IF_ERROR(Call(context, [&](rpc::ComputeNode& node) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(info, node.Info(context));
    return absl::OkStatus();
  }));
  return info;
}

}  // namespace msa::router
