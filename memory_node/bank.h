// One bank as a node holds it in memory: its specification, its routing index and the directory of
// its documents. What is on disk and what is here change under the locks named below.
#ifndef MSA_MEMORY_NODE_BANK_H_
#define MSA_MEMORY_NODE_BANK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "memory_node/record_format.h"
#include "memory_node/routing_index.h"
#include "memory_node/selection.h"
#include "rpc/types.h"

namespace msa::memory_node {

// One revision of a document. Immutable.
struct DocumentEntry {
  std::string id;
  uint64_t revision = 0;
  std::vector<int64_t> references;   // a part each; empty only where damage hides them
  std::vector<int32_t> part_tokens;  // of each
  int64_t max_reference = -1;        // the largest its id ever had
  uint32_t put_digest = 0;
  int64_t num_tokens = 0;
  int64_t num_chunks = 0;
  std::string damage;  // why it cannot be served; empty: it can
};
using DocumentEntryPtr = std::shared_ptr<const DocumentEntry>;

// A revision that is no longer current; its records are still on disk.
struct Garbage {
  DocumentEntryPtr entry;
  uint64_t removed = 0;  // sequence number it was replaced at; kMasked: deleted
};

struct PartPlace {
  DocumentEntryPtr entry;  // null: no such reference
  int32_t part_index = 0;
};

SegmentShape ShapeOf(const rpc::BankSpec& spec);

// Thread-safe. A writer of a document holds, in this order: write_mutex() shared, IdMutex(id), and
// then calls what changes that document.
class Bank {
 public:
  // `backend` holds the routing keys and must outlive it.
  Bank(rpc::BankSpec spec, const kernels::Backend& backend, const IndexOptions& options)
      : spec_(std::move(spec)), index_(backend, ShapeOf(spec_), options) {}

  const rpc::BankSpec& spec() const { return spec_; }
  RoutingIndex& index() { return index_; }
  const RoutingIndex& index() const { return index_; }

  // Held exclusively while the bank is deleted.
  absl::Mutex& write_mutex() ABSL_LOCK_RETURNED(write_mutex_) { return write_mutex_; }
  absl::Mutex& IdMutex(const std::string& id);
  // Held while codes are made or given up, before write_mutex().
  absl::Mutex& coarse_mutex() ABSL_LOCK_RETURNED(coarse_mutex_) { return coarse_mutex_; }
  // Held while references are taken, after write_mutex().
  absl::Mutex& taking_mutex() ABSL_LOCK_RETURNED(taking_mutex_) { return taking_mutex_; }
  // All below it are taken, stored or not; DATA_LOSS: not known. REQUIRES: taking_mutex(), but
  // before the bank is shared.
  const absl::StatusOr<int64_t>& references_taken() const { return references_taken_; }
  void set_references_taken(absl::StatusOr<int64_t> taken) {
    references_listed_ = taken.value_or(1);
    references_taken_ = std::move(taken);
  }
  // The same without the mutex, which is held while a disk writes; 1 where it is not known.
  int64_t references_listed() const { return references_listed_; }
  bool deleted() const { return deleted_; }
  void set_deleted() { deleted_ = true; }

  // Null when there is none.
  DocumentEntryPtr Find(const std::string& id) const;
  PartPlace FindPart(int64_t reference) const;
  // Up to `limit` current, undamaged documents with id > after.
  std::vector<DocumentEntryPtr> List(const std::string& after, int limit) const;
  // Every revision of the id that is still on disk.
  std::vector<DocumentEntryPtr> Revisions(const std::string& id) const;

  // Takes the entry's references, for as long as its records are on disk. INVALID_ARGUMENT when one
  // is another's.
  absl::Status Reserve(const DocumentEntryPtr& entry);
  void Unreserve(const DocumentEntry& entry);
  // Makes `entry` (reserved) current; what was current becomes garbage removed at `sequence`.
  void Install(const DocumentEntryPtr& entry, uint64_t sequence);
  // Takes the id out of the directory; it becomes garbage.
  void Remove(const std::string& id);
  // Garbage that no snapshot at `oldest` or later sees; it stays listed until Forget.
  std::vector<Garbage> Sweepable(uint64_t oldest) const;
  void Forget(const DocumentEntry& entry);

  // One more than the largest reference ever stored.
  int64_t next_reference() const;
  void RaiseNextReference(int64_t next_reference);

  struct Counts {
    int64_t documents = 0, parts = 0, tokens = 0, chunks = 0;
  };
  Counts counts() const;
  void AddCorruptRecord() { ++corrupt_records_; }
  int64_t corrupt_records() const { return corrupt_records_; }
  SelectionCounts& selections() { return selections_; }
  rpc::CoarseState coarse() const;
  void set_coarse(const rpc::CoarseState& coarse);

 private:
  void Count(const DocumentEntry& entry, int sign) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const rpc::BankSpec spec_;
  RoutingIndex index_;
  absl::Mutex write_mutex_;
  absl::Mutex coarse_mutex_;
  absl::Mutex taking_mutex_;
  absl::StatusOr<int64_t> references_taken_ = 0;
  std::atomic<int64_t> references_listed_{0};
  static constexpr size_t kIdMutexes = 256;
  absl::Mutex id_mutexes_[kIdMutexes];
  std::atomic<bool> deleted_{false};
  std::atomic<int64_t> corrupt_records_{0};
  SelectionCounts selections_;

  mutable absl::Mutex mutex_;
  absl::btree_map<std::string, DocumentEntryPtr> documents_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<int64_t, PartPlace> parts_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::vector<Garbage>> garbage_ ABSL_GUARDED_BY(mutex_);
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  rpc::CoarseState coarse_ ABSL_GUARDED_BY(mutex_);
  int64_t next_reference_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_BANK_H_
