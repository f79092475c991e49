// Stage 1: documents' parts to blocks. Parts of concurrent calls are encoded as one ragged batch.
// Thread-safe.
#ifndef MSA_COMPUTE_NODE_ENCODER_H_
#define MSA_COMPUTE_NODE_ENCODER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/batcher.h"
#include "compute_node/dialogue.h"
#include "compute_node/model/transformer.h"
#include "rpc/types.h"

namespace msa::compute_node {

// The longest frame encoded: a part's tokens and its wrapping.
inline constexpr int64_t kMaxEncodeTokens = 65536;

// Rows of documents' tokens of one router layer to a block, in the bank's precision. Pure; used by
// the encoder and by tests. Rows may lie in either memory; RESOURCE_EXHAUSTED when the backend's is
// full.
class BlockBuilder {
 public:
  BlockBuilder(const kernels::Backend& backend, const rpc::BankSpec& bank, bool cosine)
      : backend_(backend), bank_(bank), cosine_(cosine) {}

  // router_keys [num_tokens, key_width] → pooled, normalised where the model routes by cosine, in
  // the routing precision.
  absl::StatusOr<std::string> Routing(const float* router_keys, int64_t num_tokens) const;
  // k, v [num_tokens, num_kv_heads · head_dim] → pooled, in the content precision.
  absl::StatusOr<std::string> Content(const float* k, const float* v, int64_t num_tokens) const;

 private:
  const kernels::Backend& backend_;
  const rpc::BankSpec& bank_;
  bool cosine_;
};

class DocumentEncoder {
 public:
  // Both must outlive it.
  DocumentEncoder(const Transformer& transformer, const Tokenizer& tokenizer);

  // One EncodedPart a text, in order. INVALID_ARGUMENT for broken UTF-8 or a part that exceeds the
  // model's positions.
  absl::StatusOr<std::vector<rpc::EncodedPart>> Encode(const rpc::BankSpec& bank,
                                                       absl::Span<const ReferencedText> parts);

 private:
  struct Job;  // one call's parts
  void Process(absl::Span<Job* const> jobs);

  const Transformer& transformer_;
  const Tokenizer& tokenizer_;
  Batcher<Job> batcher_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_ENCODER_H_
