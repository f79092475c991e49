// Open snapshots of a node. Each ends when closed, or `ttl` after its last use; while a call uses
// it it does not expire. Thread-safe.
#ifndef MSA_MEMORY_NODE_SNAPSHOTS_H_
#define MSA_MEMORY_NODE_SNAPSHOTS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "memory_node/bank.h"
#include "memory_node/rank_sums.h"

namespace msa::memory_node {

struct SnapshotState {
  SnapshotState(std::shared_ptr<Bank> of, uint64_t at) : bank(std::move(of)), sequence(at) {}

  const std::shared_ptr<Bank> bank;
  const uint64_t sequence;
  // Closed by its client: what it alone saw may be gone.
  std::atomic<bool> closed{false};
  absl::Mutex mutex;
  RankSums sums ABSL_GUARDED_BY(mutex);
};

class SnapshotTable {
 public:
  SnapshotTable(std::function<absl::Time()> now, int max_open);

  // Gives the snapshot's id, as rpc::Snapshot says. RESOURCE_EXHAUSTED when too many are open.
  absl::StatusOr<uint64_t> Open(const std::shared_ptr<Bank>& bank, absl::Duration ttl,
                                uint64_t* sequence);
  // FAILED_PRECONDITION when it is not open or of another bank. Counts as a use.
  absl::StatusOr<std::shared_ptr<SnapshotState>> Use(uint64_t id, const Bank& bank);
  void Close(uint64_t id);
  void CloseAll(const Bank& bank);
  void Expire();

  // No snapshot of the bank, open or opened later, has a smaller sequence number.
  uint64_t Oldest(const Bank& bank) const;
  int64_t NumOpen(const Bank& bank) const;

 private:
  struct Held {
    std::shared_ptr<SnapshotState> snapshot;
    absl::Duration ttl;
    absl::Time last_use;
  };
  bool Expired(const Held& held) const {
    return held.last_use + held.ttl < now_() && held.snapshot.use_count() == 1;
  }
  uint64_t NewId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<absl::Time()> now_;
  const int max_open_;
  // Random, so that no snapshot of before a restart is taken for one of after.
  const uint32_t start_;
  mutable absl::Mutex mutex_;
  uint32_t last_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Held> open_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SNAPSHOTS_H_
