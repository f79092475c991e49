// The shards of a map, called together.
#ifndef MSA_ROUTER_SHARD_GROUP_H_
#define MSA_ROUTER_SHARD_GROUP_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "router/observer.h"
#include "rpc/memory_shard.h"
#include "rpc/shard_map.h"
#include "rpc/worker_pool.h"

namespace msa::router {

// The shard that gives the numbers of all that is added. Any would do, as long as all routers of a
// map ask the same.
inline constexpr int kNumberingShard = 0;

// Thread-safe.
class ShardGroup {
 public:
  // `shards`: one an entry of `map`, borrowed. `timeout`: of one shard's answer. `threads`: for
  // calls beyond the caller's own. `observer`, who hears of every one, may be null.
  ShardGroup(const rpc::ShardMap& map, std::vector<rpc::MemoryShard*> shards,
             absl::Duration timeout, int threads, Observer* observer);

  int size() const { return static_cast<int>(shards_.size()); }
  const std::string& name(int shard) const { return map_.shards[shard].name; }
  rpc::MemoryShard& shard(int shard) const { return *shards_[shard]; }
  int ShardOf(const std::string& document_id) const { return map_.ShardOf(document_id); }
  std::vector<int> All() const;

  using Call = std::function<absl::Status(const rpc::CallContext& context, int shard)>;

  // One shard, on this thread. A shard that does not answer in time is UNAVAILABLE by name as long
  // as the caller still has time to hear it.
  absl::Status Ask(const rpc::CallContext& context, int shard, const Call& call) const;

  // Asks `which` in parallel (one alone on this thread); statuses in the order of `which`. With
  // `all_or_nothing` the first error cancels the others.
  std::vector<absl::Status> AskEach(const rpc::CallContext& context, const std::vector<int>& which,
                                    bool all_or_nothing, const Call& call) const;

  // Runs `task` for 0 … count - 1 in parallel (one alone on this thread) until all have ended.
  void InParallel(size_t count, const std::function<void(size_t)>& task) const;

 private:
  rpc::CallContext Limited(const rpc::CallContext& context) const;
  absl::Status Named(const rpc::CallContext& context, int shard, absl::Status status) const;

  const rpc::ShardMap map_;
  const std::vector<rpc::MemoryShard*> shards_;
  const absl::Duration timeout_;
  Observer* const observer_;
  mutable rpc::WorkerPool pool_;
};

// Whether an error says that a shard could not be reached, whoever tried: such errors have
// "shard 'NAME'" in them, as ShardGroup and the compute nodes' clients of shards write it.
bool IsAboutShard(const absl::Status& status);

}  // namespace msa::router

#endif  // MSA_ROUTER_SHARD_GROUP_H_
