// Content blocks of documents lately attended to, verified once, shared by sessions. Bounded in
// bytes, least recently used leaves first. An entry can be superfluous but never stale (Key).
// Thread-safe; a block handed out stays valid after it left the cache.
#ifndef MSA_COMPUTE_NODE_CONTENT_CACHE_H_
#define MSA_COMPUTE_NODE_CONTENT_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "rpc/types.h"

namespace msa::compute_node {

// One part's K̄, V̄ of one layer. `view` points into `resident` where there is one, else `record`.
struct ContentBlock {
  rpc::Payload record;       // empty once the bytes are resident
  kernels::Buffer resident;  // in memory of a backend that cannot read the processor's
  bool on_device = false;    // surely; what kResident gave may be anywhere
  kernels::KvView view;

  size_t bytes() const { return record.size() + resident.size(); }
};

// Checks checksum and identity (bank, reference, layer, model, precision, shape) of a content
// record. DATA_LOSS where anything differs: such a block is never attended to.
absl::StatusOr<std::shared_ptr<const ContentBlock>> ParseContentBlock(const rpc::BankSpec& bank,
                                                                      int64_t reference,
                                                                      int32_t layer,
                                                                      rpc::Payload record);

// The block where `backend` attends to it fastest. RESOURCE_EXHAUSTED where it has no memory for
// that purpose.
absl::StatusOr<std::shared_ptr<const ContentBlock>> MakeResident(
    const kernels::Backend& backend, const rpc::BankSpec& bank,
    std::shared_ptr<const ContentBlock> block, kernels::Backend::Purpose purpose);

class ContentCache {
 public:
  explicit ContentCache(size_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  // What a block is kept by. A reference is never given twice in a bank, but by routers of earlier
  // releases to documents on two shards, and by a shard that came back with an older copy of its
  // data.
  struct Key {
    uint64_t bank_uid = 0;
    int32_t shard = 0;         // index in the shard map
    uint32_t shard_start = 0;  // upper half of its snapshots' ids
    int64_t reference = 0;
    int32_t layer = 0;

    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.bank_uid, key.shard, key.shard_start, key.reference,
                        key.layer);
    }
  };

  // Null where absent.
  std::shared_ptr<const ContentBlock> Find(const Key& key);
  void Insert(const Key& key, std::shared_ptr<const ContentBlock> block);
  // For want of a device's memory: of the bytes that nobody reads there the less recently used half
  // goes. Gives how many.
  size_t DropHalf();

  // Bytes held, and how many calls of Find since the start gave a block or none.
  struct Usage {
    size_t bytes = 0;
    int64_t hits = 0;
    int64_t misses = 0;
  };
  Usage usage() const;

 private:
  struct Entry {
    Key key;
    std::shared_ptr<const ContentBlock> block;
  };

  using Entries = std::list<Entry>;
  // Freed without the lock: a device is waited for.
  using Dropped = std::vector<std::shared_ptr<const ContentBlock>>;
  Entries::iterator Drop(Entries::iterator entry, Dropped& dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t capacity_bytes_;
  mutable absl::Mutex mu_;
  Entries recent_ ABSL_GUARDED_BY(mu_);  // most recently used first
  absl::flat_hash_map<Key, Entries::iterator> entries_ ABSL_GUARDED_BY(mu_);
  size_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t hits_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t misses_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_CONTENT_CACHE_H_
