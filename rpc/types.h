// Plain values that the services exchange. proto/msa/v1 has the same on the wire; rpc/convert
// translates.
#ifndef MSA_RPC_TYPES_H_
#define MSA_RPC_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/dtype.h"
#include "common/routing.h"
#include "rpc/call_context.h"

namespace msa::rpc {

// Bytes kept alive by whoever made them (a RocksDB pin, a gRPC slice, a string): copied as a
// pointer.
class Payload {
 public:
  Payload() = default;
  explicit Payload(std::string bytes)
      : Payload(std::make_shared<const std::string>(std::move(bytes))) {}
  explicit Payload(std::shared_ptr<const std::string> bytes)
      : view_(*bytes), owner_(std::move(bytes)) {}
  // `view` must stay valid as long as `owner` lives.
  Payload(std::string_view view, std::shared_ptr<const void> owner)
      : view_(view), owner_(std::move(owner)) {}

  std::string_view view() const { return view_; }
  size_t size() const { return view_.size(); }

 private:
  std::string_view view_;
  std::shared_ptr<const void> owner_;
};

// A bank: documents encoded by one model in one set of precisions.
struct BankSpec {
  std::string name;
  uint64_t uid = 0;  // random, tells a bank from a deleted one of the same name; 0 = not yet made
  std::string
      model_fingerprint;   // 32 hex digits over configuration, weights, adapter and tokenizer
  std::string model_name;  // for reading
  std::vector<int32_t> router_layers;  // decoder layers that keep blocks, ascending
  RoutingShape routing;
  int32_t routing_chunk_tokens = 0;  // tokens pooled into one routing key
  int32_t content_chunk_tokens = 0;  // tokens pooled into one K̄, V̄ row
  DType routing_dtype = DType::kBFloat16;
  DType content_dtype = DType::kBFloat16;
  int32_t part_tokens = 0;  // longer documents are split
  bool parse_special_tokens =
      false;  // special-token text in documents and questions is parsed as such
  std::optional<DType> weights_dtype;  // that encode its documents; unset: not known, any

  bool operator==(const BankSpec&) const = default;
};

// How a question's routing reads a bank's keys (docs/decisions/0013): as the bank says, every key,
// or 4-bit codes of them and then the keys of what looked best.
enum class Scan : uint8_t { kDefault = 0, kExact = 1, kCoarse = 2 };

// Coarse scans of a bank: the same on all of its shards. What is measured is 0 before a
// calibration.
struct CoarseState {
  bool codes = false;          // kept, in memory beside the keys
  bool on = false;             // for requests that do not say: only after a calibration
  int32_t candidates = 0;      // parts that each shard scores exactly, 1 … kMaxCandidates
  int32_t top_k = 0;           // parts a layer that were compared
  int64_t selections = 0;      // layer-questions compared
  int64_t same = 0;            // of them, those with the full scan's parts in its order
  int64_t num_parts = 0;       // in the bank then, all shards
  int64_t next_reference = 0;  // of the bank then: parts from here on were added since

  bool operator==(const CoarseState&) const = default;

  // FAILED_PRECONDITION unless the calibration of the bank of that name allows `on`: 999 of 1,000
  // selections the same, of 1,000 or more.
  absl::Status CheckPassed(std::string_view bank) const;
  static constexpr int64_t kLeastCompared = 1000;
  static constexpr int32_t kUncalibratedCandidates = 128;
};

// Coarse scans with one number of candidates beside exact ones, over the same questions.
struct ScanComparison {
  int32_t candidates = 0;
  int64_t selections = 0;  // layer-questions
  int64_t same = 0;        // with the same parts in the same order
  double exact_ms = 0;     // of all of them together
  double coarse_ms = 0;
};
// Adds what `more` compared, candidates by candidates in the same order; to nothing: `more`.
void AddComparisons(const std::vector<ScanComparison>& more, std::vector<ScanComparison>* sums);

struct ByteSpan {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool operator==(const ByteSpan&) const = default;
};

struct NewDocument {
  std::string id;     // 1 … kMaxDocumentIdBytes, UTF-8 without control characters
  std::string title;  // may be empty; encoded as the text's first line
  std::string text;
  std::string metadata;  // JSON object as the client sent it, or empty

  // What is encoded and what spans refer to: title, newline, text; the text alone without a title.
  std::string FullText() const { return title.empty() ? text : title + "\n" + text; }
};

// One router layer of one part, as its bank's precisions hold it. Layout: common/block_layout.h.
struct EncodedLayer {
  Payload routing;  // keys [routing_chunks, key_width], then scales
  Payload content;  // K̄ and V̄ [content_chunks, num_kv_heads, head_dim], then scales
  uint32_t routing_crc32c = 0;
  uint32_t content_crc32c = 0;
};

struct EncodedPart {
  int64_t reference = 0;
  ByteSpan span;  // in FullText()
  int32_t num_tokens = 0;
  int32_t routing_chunks = 0;
  int32_t content_chunks = 0;
  std::vector<EncodedLayer> layers;  // one a router layer, in the bank's order
};

struct EncodedDocument {
  std::string bank;
  uint64_t bank_uid = 0;
  std::string model_fingerprint;
  NewDocument document;
  std::vector<EncodedPart> parts;  // references ascending
};

struct PartInfo {
  int64_t reference = 0;
  ByteSpan span;
  int32_t num_tokens = 0;
  int32_t routing_chunks = 0;
};

struct DocumentInfo {
  std::string id;
  std::string title;
  std::string metadata;
  uint64_t revision = 0;  // 1 for the first, then + 1 a replacement; goes on after a delete
  std::vector<PartInfo> parts;
  uint64_t text_bytes = 0;  // of FullText()
  int64_t added_unix_micros = 0;

  int64_t num_tokens() const;
  int64_t num_chunks() const;  // routing chunks
};

struct StoredDocument {
  DocumentInfo info;
  std::string full_text;
};

// A part as an answer cites and reads it.
struct PartText {
  int64_t reference = 0;
  std::string document_id;
  std::string title;
  uint64_t revision = 0;
  int32_t part_index = 0;
  int32_t num_parts = 1;
  ByteSpan span;
  std::string text;
};

struct RoutedPart {
  ScoredPart scored;
  int32_t shard = 0;  // index in the shard map
  int32_t content_chunks = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_TYPES_H_
