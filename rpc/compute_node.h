// A compute node as the router sees it: it encodes documents and answers questions. Blocking;
// thread-safe.
#ifndef MSA_RPC_COMPUTE_NODE_H_
#define MSA_RPC_COMPUTE_NODE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::rpc {

struct ModelInfo {
  std::string fingerprint;
  std::string name;
  BankSpec default_bank;  // what a bank made without options gets; name and uid empty
  bool has_trained_routers = false;
  std::string retrieval_mode;  // "generative" or "router"
};

// A refusal for what the node was started with: another node may do it. Kept by a sign in the
// status, which crosses gRPC.
absl::Status AboutNode(absl::Status refusal);
bool IsAboutNode(const absl::Status& status);

// FAILED_PRECONDITION, AboutNode, for documents that it would encode with weights of another
// precision than the bank's others: one text would have two keys. Questions are asked with any.
absl::Status CheckWeights(const BankSpec& bank, DType weights);

struct EncodeRequest {
  BankSpec bank;
  NewDocument document;
  std::vector<ByteSpan> parts;  // from SplitDocument
  int64_t first_reference = 0;  // part i gets first_reference + i
  int32_t shard = 0;            // index in the shard map: where the blocks go
};

// Unset: the checkpoint's own value (msa_config), named in brackets.
struct GenerateRequest {
  std::string bank;
  std::string question;
  std::optional<std::string> mode;          // "generative" | "router" [retrieval_mode]
  std::optional<int32_t> top_k;             // parts a layer [doc_top_k]
  std::optional<int32_t> reader_documents;  // router mode: texts a round [reader_documents, 3]
  std::optional<int32_t>
      max_rounds;  // retrieval rounds [router mode: router_rounds, 1; generative: 8]
  std::optional<int32_t> max_new_tokens;  // of the answer [256]
  bool use_memory = true;                 // false: the chat model alone, no routing
  bool allow_partial = false;
  float temperature = 0;  // 0 = greedy
  uint64_t seed = 0;
  Scan scan = Scan::kDefault;
  bool read_together = false;  // router mode: no text by itself, whatever the checkpoint does
};

struct RoutedDocument {
  int64_t reference = 0;
  std::string document_id;  // empty when deleted meanwhile
  std::string title;
  int32_t part_index = 0;
  ByteSpan span;
  float score = 0;          // mean over the router layers
  int32_t layer_votes = 0;  // router layers whose top-k holds it
};

struct LayerSelection {
  int32_t layer = 0;
  std::vector<ScoredPart> parts;  // best first
};

struct RoutingEvent {
  int32_t round = 0;                      // from 1
  std::vector<RoutedDocument> documents;  // best first
  std::vector<LayerSelection> layers;
  std::vector<std::string> missing_shards;
};
struct DocumentsLoadedEvent {
  int32_t round = 0;
  std::vector<RoutedDocument> documents;
};
struct TextEvent {
  std::string text;        // whole UTF-8 characters
  bool retrieval = false;  // written while retrieving, not part of the answer
};
struct Usage {
  int32_t prompt_tokens = 0;  // all rounds and readings
  int32_t generated_tokens = 0;
  int32_t rounds = 0;
  int64_t attended_chunks = 0;  // content chunks gathered, all layers and rounds
  int64_t fetched_bytes = 0;
  int64_t memory_parts = 0;  // parts the session could see
};
struct Timings {  // milliseconds
  double total = 0, queue = 0, prefill = 0, route = 0, fetch = 0, decode = 0, first_token = 0;
  double tokenize = 0, first_decode = 0;
};
struct DoneEvent {
  std::string answer;
  std::vector<RoutedDocument> documents;  // all that were read, best first
  std::string finish_reason;              // "stop", "length", "rounds", "no_retrieval"
  std::vector<std::string> missing_shards;
  Usage usage;
  Timings timings;
  bool no_answer = false;  // nothing was retrieved, or the model said what its checkpoint says then
  // References of those of `documents` that stood before the model where it wrote the answer.
  std::vector<int64_t> answered_from;
};
using GenerateEvent = std::variant<RoutingEvent, DocumentsLoadedEvent, TextEvent, DoneEvent>;
// false: the client is gone, stop.
using EventSink = std::function<bool(const GenerateEvent&)>;

struct RetrieveRequest {
  std::string bank;
  std::string question;
  int32_t limit = 0;             // documents wanted
  std::optional<int32_t> top_k;  // parts a layer attended to while routing [doc_top_k]
  std::optional<int32_t> max_rounds;
  bool allow_partial = false;
  Scan scan = Scan::kDefault;
  std::vector<int32_t> compare_candidates;  // as in SessionOptions
};
struct RetrieveReply {
  std::vector<RoutedDocument> documents;  // best first, each document once
  std::vector<std::string> missing_shards;
  Timings timings;
  std::vector<ScanComparison> comparisons;  // one each of compare_candidates
};

class ComputeNode {
 public:
  virtual ~ComputeNode() = default;

  virtual absl::StatusOr<ModelInfo> Info(const CallContext& ctx) = 0;
  // Spans of `full_text`, each at most part_tokens tokens when wrapped, cut at paragraph, sentence
  // or word ends. INVALID_ARGUMENT for broken UTF-8 (says where).
  virtual absl::StatusOr<std::vector<ByteSpan>> SplitDocument(const CallContext& ctx,
                                                              const std::string& full_text,
                                                              int32_t part_tokens) = 0;
  // Encodes and puts on the shard; durable when it returns.
  virtual absl::StatusOr<PutResult> EncodeDocument(const CallContext& ctx,
                                                   const EncodeRequest& request) = 0;
  virtual absl::Status Generate(const CallContext& ctx, const GenerateRequest& request,
                                const EventSink& sink) = 0;
  virtual absl::StatusOr<RetrieveReply> Retrieve(const CallContext& ctx,
                                                 const RetrieveRequest& request) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_COMPUTE_NODE_H_
