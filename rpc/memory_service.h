// What clients call, at the router's address. router/ implements it, RemoteMemoryService over gRPC.
// Blocking; thread-safe.
#ifndef MSA_RPC_MEMORY_SERVICE_H_
#define MSA_RPC_MEMORY_SERVICE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/compute_node.h"
#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::rpc {

// The bank of who names none.
inline constexpr char kDefaultBank[] = "default";

// Unset: the model's default.
struct BankOptions {
  std::optional<DType> routing_dtype;
  std::optional<DType> content_dtype;
  std::optional<int32_t> routing_chunk_tokens;
  std::optional<int32_t> content_chunk_tokens;
  std::optional<int32_t> part_tokens;
  std::optional<bool> parse_special_tokens;
};

// One a document, in the order documents were sent.
struct AddResult {
  uint64_t index = 0;  // 0-based place in the stream
  std::string id;
  absl::Status status;  // of this document; others go on
  PutResult put;        // when OK
};

struct DocumentPage {
  std::vector<DocumentInfo> documents;  // ids ascending bytewise
  std::string next_page_token;          // empty: the last page
};

struct ShardStatsEntry {
  std::string shard;
  absl::Status status;
  ShardStats stats;
};
struct BankStats {
  BankSpec spec;
  std::vector<ShardStatsEntry> shards;
};

class MemoryService {
 public:
  virtual ~MemoryService() = default;

  // That of a compute node that answers: what a bank made now gets.
  virtual absl::StatusOr<ModelInfo> GetModel(const CallContext& ctx) = 0;
  // FAILED_PRECONDITION when the model cannot serve such a bank; ALREADY_EXISTS.
  virtual absl::StatusOr<BankSpec> CreateBank(const CallContext& ctx, const std::string& name,
                                              const BankOptions& options) = 0;
  virtual absl::Status DeleteBank(const CallContext& ctx, const std::string& name) = 0;
  virtual absl::StatusOr<std::vector<BankSpec>> ListBanks(const CallContext& ctx) = 0;
  // Has the bank keep codes of its keys, or give them up, on every shard; returns what is kept,
  // with num_parts and next_reference filled in. FAILED_PRECONDITION for `on` without a calibration
  // that passed, and for a bank whose keys cannot have codes; RESOURCE_EXHAUSTED. A shard that
  // fails leaves the others as they then are.
  virtual absl::StatusOr<CoarseState> SetCoarse(const CallContext& ctx, const std::string& bank,
                                                const CoarseState& state) = 0;

  // Reads documents from `next` (nullopt = end) and reports each to `done` once it is durable or
  // refused. A document whose id was seen earlier in the stream is refused. The bank "default" is
  // made on first use. The status is the stream's: NOT_FOUND for an unknown bank,
  // FAILED_PRECONDITION for a bank of another model.
  virtual absl::Status AddDocuments(const CallContext& ctx, const std::string& bank,
                                    const std::function<std::optional<NewDocument>()>& next,
                                    const std::function<bool(const AddResult&)>& done) = 0;
  virtual absl::StatusOr<std::vector<DeleteResult>> DeleteDocuments(
      const CallContext& ctx, const std::string& bank, const std::vector<std::string>& ids) = 0;
  virtual absl::StatusOr<StoredDocument> GetDocument(const CallContext& ctx,
                                                     const std::string& bank,
                                                     const std::string& id) = 0;
  virtual absl::StatusOr<DocumentPage> ListDocuments(const CallContext& ctx,
                                                     const std::string& bank, int32_t page_size,
                                                     const std::string& page_token) = 0;
  virtual absl::StatusOr<RetrieveReply> Retrieve(const CallContext& ctx,
                                                 const RetrieveRequest& request) = 0;
  virtual absl::Status Generate(const CallContext& ctx, const GenerateRequest& request,
                                const EventSink& sink) = 0;
  virtual absl::StatusOr<BankStats> Stats(const CallContext& ctx, const std::string& bank) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_MEMORY_SERVICE_H_
