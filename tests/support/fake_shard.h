// A memory shard in plain maps, for tests of what lies above it: everything rpc/memory_shard.h
// promises but durability, with float32 keys scored naively. Banks must be of float32.
#ifndef MSA_TESTS_SUPPORT_FAKE_SHARD_H_
#define MSA_TESTS_SUPPORT_FAKE_SHARD_H_

#include <atomic>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/memory_shard.h"

namespace msa::testing {

class FakeShard : public rpc::MemoryShard {
 public:
  // Called first in every method with the method's name; an error is returned instead of working.
  // Set before use. For failures, and for calls that hang until a test lets them go.
  std::function<absl::Status(const std::string& method, const rpc::CallContext& context)> before;

  // Coarse scans of fewer candidates lose the best part. Set before use.
  int32_t candidates_needed = 0;

  size_t open_snapshots() const;
  // Comes back without its data.
  void ForgetAll();

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
  absl::StatusOr<rpc::PutResult> PutDocument(const rpc::CallContext& ctx,
                                             const rpc::EncodedDocument& document) override;
  absl::StatusOr<uint64_t> DeleteDocument(const rpc::CallContext& ctx, const std::string& bank,
                                          const std::string& id) override;
  absl::StatusOr<std::vector<rpc::DeleteResult>> DeleteDocuments(
      const rpc::CallContext& ctx, const std::string& bank,
      absl::Span<const std::string> ids) override;
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
  absl::Status CloseSnapshot(const rpc::CallContext& ctx, uint64_t snapshot_id) override;
  absl::StatusOr<std::vector<rpc::RoutedPart>> Route(const rpc::CallContext& ctx,
                                                     const rpc::RouteRequest& request) override;
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const rpc::CallContext& ctx,
                                                    const rpc::RankRequest& request) override;
  absl::Status FetchBlocks(const rpc::CallContext& ctx, const rpc::FetchRequest& request,
                           const std::function<absl::Status(rpc::FetchedBlock)>& sink) override;
  absl::StatusOr<rpc::ShardStats> Stats(const rpc::CallContext& ctx,
                                        const std::string& bank) override;

 private:
  struct Stored {
    rpc::EncodedDocument encoded;
    uint64_t revision = 0;
    bool deleted = false;
  };
  struct Bank {
    rpc::BankSpec spec;
    int64_t next_reference = 0;
    int64_t references_taken = 0;
    rpc::CoarseState coarse;
    std::map<std::string, Stored> documents;
  };
  struct OpenedSnapshot {
    std::string bank;
    std::map<std::string, Stored> documents;
    int32_t round = -1;
    std::map<int64_t, std::vector<float>> scores;  // by reference, one a routed layer of `round`
  };

  absl::Status Enter(const std::string& method, const rpc::CallContext& ctx) const;
  absl::StatusOr<Bank*> Find(const std::string& bank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<OpenedSnapshot*> Use(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gone from the bank since the snapshot was opened.
  bool Alive(const OpenedSnapshot& snapshot, const std::string& id, const Stored& stored) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, Bank> banks_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> deleted_uids_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, OpenedSnapshot> snapshots_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_snapshot_ ABSL_GUARDED_BY(mutex_) = 1;
};

// Waits until the call is cancelled or its deadline has passed, as a hung shard's client does.
absl::Status HangUntilDeadline(const rpc::CallContext& context);

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_FAKE_SHARD_H_
