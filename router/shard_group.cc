#include "router/shard_group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "common/check.h"
#include "common/strings.h"
#include "rpc/fan_out.h"

namespace msa::router {

ShardGroup::ShardGroup(const rpc::ShardMap& map, std::vector<rpc::MemoryShard*> shards,
                       absl::Duration timeout, int threads, Observer* observer)
    : map_(map),
      shards_(std::move(shards)),
      timeout_(timeout),
      observer_(observer),
      pool_(threads, 0) {
  MSA_CHECK(!shards_.empty() && shards_.size() == map_.shards.size());
}

std::vector<int> ShardGroup::All() const {
  std::vector<int> all(shards_.size());
  for (int i = 0; i < size(); ++i) all[i] = i;
  return all;
}

// A tenth of the caller's time (at most 200 ms) is kept back, so that the answer that names the
// dead shard still reaches the client.
rpc::CallContext ShardGroup::Limited(const rpc::CallContext& context) const {
  const absl::Time now = absl::Now();
  rpc::CallContext limited = context;
  if (context.deadline != absl::InfiniteFuture()) {
    limited.deadline -=
        std::clamp((context.deadline - now) / 10, absl::ZeroDuration(), absl::Milliseconds(200));
  }
  limited.deadline = std::min(limited.deadline, now + timeout_);
  return limited;
}

bool IsAboutShard(const absl::Status& status) {
  return absl::StrContains(status.message(), "shard '");
}

absl::Status ShardGroup::Named(const rpc::CallContext& context, int shard,
                               absl::Status status) const {
  const bool late = absl::IsDeadlineExceeded(status) && absl::Now() < context.deadline;
  if (!late && !absl::IsUnavailable(status)) return status;
  const std::string who = StrCat("shard '", name(shard), "'");
  if (late) return absl::UnavailableError(StrCat(who, " did not answer in time"));
  if (absl::StrContains(status.message(), who)) return status;
  return absl::UnavailableError(StrCat(who, ": ", std::string(status.message())));
}

absl::Status ShardGroup::Ask(const rpc::CallContext& context, int shard, const Call& call) const {
  const absl::Time start = absl::Now();
  absl::Status status = Named(context, shard, call(Limited(context), shard));
  if (observer_ != nullptr) {
    observer_->OnShardAsked(shard, status.code(), absl::Now() - start);
  }
  return status;
}

std::vector<absl::Status> ShardGroup::AskEach(const rpc::CallContext& context,
                                              const std::vector<int>& which, bool all_or_nothing,
                                              const Call& call) const {
  return rpc::AskTogether(
      pool_, context, which.size(), all_or_nothing,
      [&](const rpc::CallContext& linked, size_t i) { return Ask(linked, which[i], call); });
}

void ShardGroup::InParallel(size_t count, const std::function<void(size_t)>& task) const {
  pool_.RunEach(count, task);
}

}  // namespace msa::router
