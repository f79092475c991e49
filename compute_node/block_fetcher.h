// Content blocks on their way to one session. A shard is asked once for several layers of what was
// selected; each layer goes on as soon as its own blocks have come, the others come meanwhile.
#ifndef MSA_COMPUTE_NODE_BLOCK_FETCHER_H_
#define MSA_COMPUTE_NODE_BLOCK_FETCHER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "compute_node/content_cache.h"
#include "rpc/call_context.h"
#include "rpc/worker_pool.h"

namespace msa::compute_node {

// Called by one thread, its session's; the calls that it starts run on the pool's.
class BlockFetcher {
 public:
  using Key = ContentCache::Key;
  using Block = std::shared_ptr<const ContentBlock>;
  // Of what has come; an error when it could not be kept, which ends the call.
  using Sink = std::function<absl::Status(const Key& key, absl::StatusOr<Block> block)>;
  // Gives what it is started for to `sink`, in any order; what it leaves out is gone. Heeds `ctx`,
  // ends with the error of `sink`.
  using Call = std::function<absl::Status(const rpc::CallContext& ctx, const Sink& sink)>;

  explicit BlockFetcher(rpc::WorkerPool& pool) : pool_(pool) {}
  ~BlockFetcher() { Stop(); }
  BlockFetcher(const BlockFetcher&) = delete;
  BlockFetcher& operator=(const BlockFetcher&) = delete;

  // Starts `call` of a shard for `keys` on a free thread; where there is none it runs here, to its
  // end.
  void Start(const rpc::CallContext& ctx, int32_t shard, absl::Span<const Key> keys, Call call);
  // A block that needs no call.
  void Put(const Key& key, Block block);
  // Whether it has come, or a call for it was started.
  bool Has(const Key& key) const;
  // Null: it has not come.
  Block Find(const Key& key) const;
  // Until each of `keys` has come or its call has ended; with `all_or_nothing` the first error of
  // such a call ends the wait, and all calls. Gives the errors of calls that still owe some of
  // `keys`, by shard, of several the one that is not UNAVAILABLE; fails where it was this node that
  // could not keep what came.
  absl::StatusOr<std::map<int32_t, absl::Status>> Await(absl::Span<const Key> keys,
                                                        bool all_or_nothing);
  // Cancels the calls under way and waits for their ends.
  void Stop();

 private:
  struct Running {
    int32_t shard = 0;
    bool ended = false;
    absl::Status status;
    absl::Status kept;  // what `sink` was given last
  };
  struct Expected {
    std::shared_ptr<const Running> call;  // null: none was needed
    Block block;
  };

  // Of the calls that still owe some of `keys`.
  std::vector<std::shared_ptr<const Running>> Owing(absl::Span<const Key> keys) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  rpc::WorkerPool& pool_;
  std::atomic<bool> stopped_ = false;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<Key, Expected> expected_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_BLOCK_FETCHER_H_
