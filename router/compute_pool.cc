#include "router/compute_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/shard_group.h"

namespace msa::router {
namespace {

// Either alone, or what both say, with the second's code.
absl::Status Both(const absl::Status& first, const absl::Status& second) {
  if (first.ok() || second.ok()) return first.ok() ? second : first;
  return absl::Status(second.code(),
                      StrCat(std::string(first.message()), "; ", std::string(second.message())));
}

}  // namespace

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
  if (size() == 0) return absl::UnavailableError("no compute node is configured");
  absl::Status unfit, down;  // of all that do not fit; of the last that is down, and may fit
  std::vector<bool> tried(size());
  while (true) {
    const int index = Take(tried);
    if (index < 0) return Both(unfit, down);
    rpc::ComputeNode* node;
    std::string name;
    {
      absl::MutexLock lock(&mutex_);
      node = nodes_[index].node;
      name = StrCat("compute node '", nodes_[index].name, "'");
    }
    absl::Status status = call(*node);
    Release(index);
    // Another node would miss the same shard.
    const bool is_down = absl::IsUnavailable(status) && !IsAboutShard(status);
    const bool does_not_fit = rpc::IsAboutNode(status);
    if (!is_down && !does_not_fit) return status;
    if ((is_down && !absl::StrContains(status.message(), "compute node '")) ||
        (does_not_fit && size() > 1)) {
      status = absl::Status(status.code(), StrCat(name, ": ", std::string(status.message())));
    }
    (is_down ? down : unfit) = is_down ? status : Both(unfit, status);
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
