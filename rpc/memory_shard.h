// A memory node as others see it. memory_node/ implements it over RocksDB, RemoteMemoryShard over
// gRPC; one contract suite runs on both. Blocking; thread-safe. Every method: DEADLINE_EXCEEDED
// past ctx.deadline, CANCELLED when the client is gone, UNAVAILABLE (naming the shard) when the
// node cannot be reached, NOT_FOUND naming an unknown bank.
#ifndef MSA_RPC_MEMORY_SHARD_H_
#define MSA_RPC_MEMORY_SHARD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "rpc/types.h"

namespace msa::rpc {

struct BankState {
  BankSpec spec;
  int64_t next_reference = 0;  // one more than the largest ever stored here, deleted ones included
  CoarseState coarse;
  int64_t references_taken = 0;  // one more than the largest given here; 1 if that is not known
};

struct PutResult {
  uint64_t revision = 0;
  int64_t num_tokens = 0;
  int64_t num_chunks = 0;
  int32_t num_parts = 0;
};

struct DeleteResult {
  std::string id;
  absl::Status status;
  uint64_t revision = 0;  // the one deleted
};

struct Snapshot {
  // Names the snapshot on this shard until closed or expired. The upper half is the shard's start:
  // the same for all snapshots until it restarts, random and another after. What is kept of a shard
  // beyond a snapshot is kept by it: a shard may come back with an older copy of its data.
  uint64_t id = 0;
  uint64_t sequence = 0;  // writes up to here are seen
  int64_t num_parts = 0;
};

struct RouteRequest {
  std::string bank;
  uint64_t snapshot_id = 0;
  int32_t round = 0;  // counts up within a session; a new round starts new rank sums
  int32_t layer = 0;  // decoder layer
  int32_t top_k = 0;
  std::vector<float> queries;  // [rows, RoutingShape::query_width()], finite
  // 0: exact. Else the keys' codes are scanned, and the exact scores of so many of this shard's
  // best parts decide.
  int32_t candidates = 0;
};

struct RankRequest {
  std::string bank;
  uint64_t snapshot_id = 0;
  int32_t round = 0;
  int32_t limit = 0;
  bool one_per_document = false;  // only a document's best part
  std::vector<int64_t> exclude;   // references not wanted
};

struct RankedPart {
  ScoredPart scored;  // mean over router layers of its scores in that round, summed in layer order
  int32_t shard = 0;
};

struct FetchRequest {
  std::string bank;
  uint64_t snapshot_id = 0;
  std::vector<int64_t> references;
  std::vector<int32_t> layers;
};

struct FetchedBlock {
  int64_t reference = 0;
  int32_t layer = 0;
  Payload record;  // whole content record (docs/storage_format.md): the reader verifies it
};

struct ShardStats {
  BankSpec spec;
  int64_t num_documents = 0;
  int64_t num_parts = 0;
  int64_t num_tokens = 0;
  int64_t num_chunks = 0;
  int64_t resident_key_bytes = 0;
  int64_t disk_bytes = 0;  // whole store
  int64_t num_segments = 0;
  int64_t dead_parts = 0;  // deleted or replaced, not yet compacted
  int64_t open_snapshots = 0;
  int64_t corrupt_records = 0;  // found since start
  // Selections and ranks from rounded scores since start: proven from those, and made by another,
  // exact pass because they could not tell.
  int64_t rounded_selections = 0;
  int64_t rescanned_selections = 0;
  int64_t coarse_selections = 0;  // and ranks, from codes and the candidates' exact scores
  int64_t code_bytes = 0;         // of codes held in memory beside the keys
  CoarseState coarse;
  int64_t next_reference = 0;   // as in BankState
  int64_t host_tier_bytes = 0;  // of the process: keys and blocks that no GPU had room for
};

class MemoryShard {
 public:
  virtual ~MemoryShard() = default;

  // Durable on return. The same spec again is OK; another spec under the name: ALREADY_EXISTS;
  // FAILED_PRECONDITION for the uid of a bank that was deleted here: its references come once.
  virtual absl::Status CreateBank(const CallContext& ctx, const BankSpec& spec) = 0;
  virtual absl::Status DeleteBank(const CallContext& ctx, const std::string& bank) = 0;
  // In one step with finding it so: FAILED_PRECONDITION for a bank that has given references or had
  // documents here. NOT_FOUND, too, where the bank of that name has another uid.
  virtual absl::Status DeleteUnusedBank(const CallContext& ctx, const std::string& bank,
                                        uint64_t bank_uid) = 0;
  virtual absl::StatusOr<std::vector<BankState>> ListBanks(const CallContext& ctx) = 0;
  // Makes or gives up codes of the bank's keys, as `state` says, and keeps it: durable on return.
  // FAILED_PRECONDITION for a bank whose scores cannot be scanned so (kernels/coarse_codes.h),
  // RESOURCE_EXHAUSTED when memory does not suffice: the bank is as before then, without codes;
  // NOT_FOUND when it was deleted meanwhile. Calls for other banks do not wait for codes.
  virtual absl::Status SetCoarse(const CallContext& ctx, const std::string& bank,
                                 const CoarseState& state) = 0;

  // Takes `count` reference numbers, one after another, that this shard never gave nor stored, none
  // below `at_least`, and gives the first. Durable on return: nobody gets them again. Whoever adds
  // to a bank takes them from one shard, the first of the map. FAILED_PRECONDITION for a bank of
  // another uid, DATA_LOSS where those given before cannot be read.
  virtual absl::StatusOr<int64_t> TakeReferences(const CallContext& ctx, const std::string& bank,
                                                 uint64_t bank_uid, int64_t at_least,
                                                 int64_t count) = 0;
  // Adds or replaces, atomically and synced; routable when it returns. FAILED_PRECONDITION for
  // another model's blocks or a bank of another uid, INVALID_ARGUMENT for sizes that do not fit the
  // bank, DATA_LOSS for a wrong checksum, RESOURCE_EXHAUSTED when disk or memory is full (nothing
  // is changed then).
  virtual absl::StatusOr<PutResult> PutDocument(const CallContext& ctx,
                                                const EncodedDocument& document) = 0;
  // Durable tombstone and index mask before it returns; gives the revision deleted. NOT_FOUND for
  // an unknown id.
  virtual absl::StatusOr<uint64_t> DeleteDocument(const CallContext& ctx, const std::string& bank,
                                                  const std::string& id) = 0;
  // DeleteDocument of each, one result an id in the order given; up to kMaxIdsPerShardDelete. An
  // error is of the whole call: then any of them may be deleted.
  virtual absl::StatusOr<std::vector<DeleteResult>> DeleteDocuments(
      const CallContext& ctx, const std::string& bank, absl::Span<const std::string> ids);
  virtual absl::StatusOr<StoredDocument> GetDocument(const CallContext& ctx,
                                                     const std::string& bank,
                                                     const std::string& id) = 0;
  // Up to `limit` (1 … kMaxPageSize + 1) documents with id > `after`, ascending bytewise.
  virtual absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(const CallContext& ctx,
                                                                  const std::string& bank,
                                                                  const std::string& after,
                                                                  int32_t limit) = 0;
  // Texts of the references that live here and the snapshot sees, in the order asked; others are
  // left out.
  virtual absl::StatusOr<std::vector<PartText>> GetParts(const CallContext& ctx,
                                                         const std::string& bank,
                                                         uint64_t snapshot_id,
                                                         absl::Span<const int64_t> references) = 0;

  // What is seen through it: everything acknowledged before it was opened, less what is deleted
  // meanwhile; a replaced document keeps its old revision. Ends by CloseSnapshot or `ttl` after its
  // last use.
  virtual absl::StatusOr<Snapshot> OpenSnapshot(const CallContext& ctx, const std::string& bank,
                                                absl::Duration ttl) = 0;
  virtual absl::Status CloseSnapshot(const CallContext& ctx, uint64_t snapshot_id) = 0;

  // The shard's best top_k of one layer, best first. FAILED_PRECONDITION for an expired snapshot
  // and for `candidates` of a bank without codes, INVALID_ARGUMENT for NaN or a size that does not
  // fit.
  virtual absl::StatusOr<std::vector<RoutedPart>> Route(const CallContext& ctx,
                                                        const RouteRequest& request) = 0;
  // Best first, over every part the snapshot sees, by the mean of the layers routed in `round`.
  virtual absl::StatusOr<std::vector<RankedPart>> Rank(const CallContext& ctx,
                                                       const RankRequest& request) = 0;
  // Calls `sink` once a block, layer-major; blocks of references gone meanwhile are left out. A
  // damaged block is not sent: DATA_LOSS naming document and layer. Stops at the first error of
  // `sink`.
  virtual absl::Status FetchBlocks(const CallContext& ctx, const FetchRequest& request,
                                   const std::function<absl::Status(FetchedBlock)>& sink) = 0;
  virtual absl::StatusOr<ShardStats> Stats(const CallContext& ctx, const std::string& bank) = 0;
};

// A refusal because the snapshot that is named is not open: a sign in the status, which crosses
// gRPC.
absl::Status SnapshotLost(absl::Status refusal);
// What a question hears of a shard that has not its snapshot any more: UNAVAILABLE by the shard's
// name where `status` is SnapshotLost, else `status` as it is.
absl::Status NameLostSnapshot(const absl::Status& status, std::string_view shard);

}  // namespace msa::rpc

#endif  // MSA_RPC_MEMORY_SHARD_H_
