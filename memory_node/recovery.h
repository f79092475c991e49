// Start-up: from the store to banks ready to serve. One scan of `meta`, then `routing` in key order
// on several threads (key_loading.h), every record verified. Damaged documents are named in the log
// and kept in the directory as damaged: never served, never removed.
#ifndef MSA_MEMORY_NODE_RECOVERY_H_
#define MSA_MEMORY_NODE_RECOVERY_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "memory_node/bank.h"
#include "memory_node/document_store.h"

namespace msa::memory_node {

struct RecoveredStore {
  std::vector<std::shared_ptr<Bank>> banks;
  int64_t damaged_banks = 0;  // whose specification cannot be read
};

// Sweeps garbage and deleted banks first. RESOURCE_EXHAUSTED when the keys do not fit in memory;
// UNAVAILABLE when the disk fails.
absl::StatusOr<RecoveredStore> Recover(DocumentStore& store, const kernels::Backend& backend,
                                       const IndexOptions& options);

// The specifications of the banks that are served, by uid, from either of their two records; adds
// to `*damaged` those that have none that can be read.
absl::StatusOr<std::map<uint64_t, rpc::BankSpec>> ReadBanks(DocumentStore& store, int64_t* damaged);

// Removes what a garbage record names, and the record. Used while serving, too.
void AddSweep(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes);

// Removes all that a deleted bank left, but that there was one of that uid, and gives the space
// back. CANCELLED soon after `*cancelled`: the next call goes on.
absl::Status SweepDeletedBank(DocumentStore& store, uint64_t bank_uid,
                              std::atomic<bool>* cancelled);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_RECOVERY_H_
