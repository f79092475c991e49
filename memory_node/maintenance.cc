// LocalShard's background work: expiry, compaction, sweeping. Nothing a query waits for.
#include <vector>

#include "common/log.h"
#include "memory_node/recovery.h"
#include "memory_node/shard.h"

namespace msa::memory_node {
namespace {

using Priority = DocumentStore::Priority;

// A commit of the sweep delays writers behind it; this much takes about as long as a document.
constexpr size_t kSweepChanges = 4096;

}  // namespace

void LocalShard::MaintenanceLoop() {
  while (true) {
    {
      absl::MutexLock lock(&stop_mutex_);
      const auto stopped = [this] { return stop_.load(); };
      // Nothing wakes it sooner: a burst of deletes is swept in one go.
      if (stop_mutex_.AwaitWithTimeout(absl::Condition(&stopped), options_.maintenance_interval)) {
        return;
      }
    }
    RunMaintenance();
  }
}

void LocalShard::RunMaintenance() {
  absl::MutexLock lock(&maintenance_mutex_);
  snapshots_.Expire();
  for (const auto& bank : Banks()) {
    SweepBank(*bank);
    while (!stop_ && bank->index().CompactOnce(snapshots_.Oldest(*bank))) {
    }
  }
  SweepDeletedBanks();
}

void LocalShard::SweepBank(Bank& bank) {
  const std::vector<Garbage> garbage = bank.Sweepable(snapshots_.Oldest(bank));
  size_t begin = 0;
  while (begin < garbage.size() && !stop_) {
    WriteSet writes;
    size_t end = begin;
    while (end < garbage.size() && writes.changes().size() < kSweepChanges) {
      AddSweep(bank.spec(), *garbage[end++].entry, &writes);
    }
    absl::ReaderMutexLock writing(&bank.write_mutex());
    if (bank.deleted()) return;
    const absl::Status status = store_->Commit(writes, Priority::kUrgent);
    if (!status.ok()) {
      Log(LogLevel::kWarning, "deleted documents still take space: will try again",
          {{"bank", bank.spec().name}, {"why", std::string(status.message())}});
      return;
    }
    for (size_t i = begin; i < end; ++i) {
      // Of a document that was deleted while its damage hid it, nothing is in the index.
      bank.index().Mask(garbage[i].entry->references);
      bank.Forget(*garbage[i].entry);
    }
    begin = end;
  }
}

void LocalShard::SweepDeletedBanks() {
  std::vector<uint64_t> uids;
  {
    // Not between a mark's commit and the bank's being known as deleted: readers would find its
    // records missing.
    absl::MutexLock registry(&registry_mutex_);
    auto cursor = store_->NewCursor(Table::kSystem, /*sequential=*/true);
    for (cursor->Seek("x"); cursor->Valid() && cursor->key() < "y"; cursor->Next()) {
      uids.push_back(KeyBankUid(cursor->key()));
    }
  }
  for (uint64_t uid : uids) {
    const absl::Status status = SweepDeletedBank(*store_, uid, &stop_);
    if (absl::IsCancelled(status)) return;
    if (status.ok()) continue;
    Log(LogLevel::kWarning, "a deleted bank still takes space: will try again",
        {{"why", std::string(status.message())}});
  }
}

}  // namespace msa::memory_node
