// A memory node: documents durably in a store, their routing keys resident, queries answered while
// documents come and go. The contract is rpc/memory_shard.h; what is on disk,
// docs/storage_format.md.
//
// Order of a write: validated, keys copied where no reader sees them, committed to the store and
// synced, shown to readers, acknowledged. Nothing is visible that is not durable; nothing
// acknowledged is lost; what failed leaves no trace.
#ifndef MSA_MEMORY_NODE_SHARD_H_
#define MSA_MEMORY_NODE_SHARD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "memory_node/bank.h"
#include "memory_node/document_store.h"
#include "memory_node/put_batch.h"
#include "memory_node/scan_sharing.h"
#include "memory_node/snapshots.h"
#include "rpc/memory_shard.h"

namespace msa::memory_node {

struct ShardOptions {
  IndexOptions index;
  ScanOptions scan;
  int max_banks = 1024;
  int max_open_snapshots = 4096;
  absl::Duration max_snapshot_ttl = absl::Hours(1);
  std::function<absl::Time()> now = absl::Now;
  // Compaction, sweeping and expiry on a thread of the shard's own; else only by RunMaintenance().
  bool background = true;
  absl::Duration maintenance_interval = absl::Milliseconds(500);
};

class LocalShard : public rpc::MemoryShard {
 public:
  // Loads what the store holds (recovery.h). `backend` is borrowed for the shard's life.
  static absl::StatusOr<std::unique_ptr<LocalShard>> Open(std::unique_ptr<DocumentStore> store,
                                                          const kernels::Backend* backend,
                                                          ShardOptions options);
  ~LocalShard() override;

  absl::Status CreateBank(const rpc::CallContext& ctx, const rpc::BankSpec& spec) override;
  absl::Status DeleteBank(const rpc::CallContext& ctx, const std::string& bank) override;
  absl::Status DeleteUnusedBank(const rpc::CallContext& ctx, const std::string& bank,
                                uint64_t bank_uid) override;
  absl::StatusOr<std::vector<rpc::BankState>> ListBanks(const rpc::CallContext& ctx) override;
  absl::Status SetCoarse(const rpc::CallContext& ctx, const std::string& bank,
                         const rpc::CoarseState& state) override;
  absl::StatusOr<int64_t> TakeReferences(const rpc::CallContext& ctx, const std::string& bank,
                                         uint64_t bank_uid, int64_t at_least,
                                         int64_t count) override;
  // A repeat of the call that made the current revision (same references, same text; another node
  // may have encoded it, its bits differ) gives that revision again, nothing new is stored.
  // INVALID_ARGUMENT for references in use otherwise, or of the id's last revision if it was
  // deleted.
  absl::StatusOr<rpc::PutResult> PutDocument(const rpc::CallContext& ctx,
                                             const rpc::EncodedDocument& document) override;
  absl::StatusOr<uint64_t> DeleteDocument(const rpc::CallContext& ctx, const std::string& bank,
                                          const std::string& id) override;
  absl::StatusOr<rpc::StoredDocument> GetDocument(const rpc::CallContext& ctx,
                                                  const std::string& bank,
                                                  const std::string& id) override;
  absl::StatusOr<std::vector<rpc::DocumentInfo>> ListDocuments(const rpc::CallContext& ctx,
                                                               const std::string& bank,
                                                               const std::string& after,
                                                               int32_t limit) override;
  absl::StatusOr<std::vector<rpc::PartText>> GetParts(
      const rpc::CallContext& ctx, const std::string& bank, uint64_t snapshot_id,
      absl::Span<const int64_t> references) override;
  absl::StatusOr<rpc::Snapshot> OpenSnapshot(const rpc::CallContext& ctx, const std::string& bank,
                                             absl::Duration ttl) override;
  // OK for one that is not open any more.
  absl::Status CloseSnapshot(const rpc::CallContext& ctx, uint64_t snapshot_id) override;
  absl::StatusOr<std::vector<rpc::RoutedPart>> Route(const rpc::CallContext& ctx,
                                                     const rpc::RouteRequest& request) override;
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const rpc::CallContext& ctx,
                                                    const rpc::RankRequest& request) override;
  absl::Status FetchBlocks(const rpc::CallContext& ctx, const rpc::FetchRequest& request,
                           const std::function<absl::Status(rpc::FetchedBlock)>& sink) override;
  absl::StatusOr<rpc::ShardStats> Stats(const rpc::CallContext& ctx,
                                        const std::string& bank) override;

  // Expires snapshots, compacts, sweeps what nobody reads, until there is nothing to do or the
  // shard is stopped; what is left the next start goes on with.
  void RunMaintenance();
  // Passes over keys and questions they answered, since start (scan sharing).
  const ScanSharer& scans() const { return scans_; }
  std::optional<StoreUsage> store_usage() const { return store_->Usage(); }
  // For copies of it (backups.h); as long as the shard.
  DocumentStore& store() { return *store_; }
  // Banks whose specification is damaged; named in the log at start.
  int64_t damaged_banks() const { return damaged_banks_; }

 private:
  LocalShard(std::unique_ptr<DocumentStore> store, const kernels::Backend* backend,
             ShardOptions options);

  absl::StatusOr<std::shared_ptr<Bank>> FindBank(const rpc::CallContext& ctx,
                                                 const std::string& name) const;
  std::vector<std::shared_ptr<Bank>> Banks() const;
  absl::Status DeleteLocked(Bank& bank);
  absl::Status CommitCoarse(Bank& bank, const rpc::CoarseState& state);
  absl::StatusOr<Tombstone> LastRevision(Bank& bank, const std::string& id,
                                         const DocumentEntryPtr& current);
  absl::StatusOr<rpc::PutResult> PutLocked(Bank& bank, const rpc::EncodedDocument& document);
  absl::Status CommitPut(Bank& bank, const DocumentEntryPtr& entry,
                         const DocumentEntryPtr& replaced, const rpc::EncodedDocument& document);
  absl::StatusOr<uint64_t> DeleteLocked(Bank& bank, const std::string& id);
  absl::StatusOr<rpc::Payload> ReadText(Bank& bank, const DocumentEntry& entry, TextPayload* text);
  absl::Status FetchBlock(SnapshotState& snapshot, const DocumentEntry& entry, int64_t reference,
                          int32_t layer,
                          const std::function<absl::Status(rpc::FetchedBlock)>& sink);
  absl::Status Damaged(Bank& bank, const std::string& id, const std::string& what,
                       const absl::Status& why);
  void SweepBank(Bank& bank);
  void SweepDeletedBanks();
  void MaintenanceLoop();

  const std::unique_ptr<DocumentStore> store_;
  const kernels::Backend* const backend_;
  const ShardOptions options_;
  ScanSharer scans_;
  SnapshotTable snapshots_;
  int64_t damaged_banks_ = 0;

  absl::Mutex registry_mutex_;  // held while a bank is made or deleted; before banks_mutex_
  mutable absl::Mutex banks_mutex_;
  absl::btree_map<std::string, std::shared_ptr<Bank>> banks_ ABSL_GUARDED_BY(banks_mutex_);

  absl::Mutex maintenance_mutex_;  // one RunMaintenance at a time
  absl::Mutex stop_mutex_;
  std::atomic<bool> stop_ = false;  // set under stop_mutex_
  std::thread maintenance_;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SHARD_H_
