// Stage 1: documents' parts to blocks. Parts of concurrent calls are encoded as one ragged batch;
// while the next one runs, each call cuts its own blocks out of what has come over. Thread-safe.
#ifndef MSA_COMPUTE_NODE_ENCODER_H_
#define MSA_COMPUTE_NODE_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
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

class DocumentEncoder {
 public:
  // Both must outlive it.
  DocumentEncoder(const Transformer& transformer, const Tokenizer& tokenizer);

  // One EncodedPart a text, in order. INVALID_ARGUMENT for broken UTF-8 or a part that exceeds the
  // model's positions. A caller who has left, or is late, is seen between two passes: its error,
  // and no more passes for its parts.
  absl::StatusOr<std::vector<rpc::EncodedPart>> Encode(const rpc::CallContext& ctx,
                                                       const rpc::BankSpec& bank,
                                                       absl::Span<const ReferencedText> parts);
  // Calls that no batch has taken yet.
  size_t waiting() const { return batcher_.waiting(); }

 private:
  struct Job;   // one call's parts
  struct Unit;  // one of them
  void Process(absl::Span<Job* const> jobs);
  absl::Status RunPass(absl::Span<const Unit> units);

  const Transformer& transformer_;
  const Tokenizer& tokenizer_;
  std::deque<std::unique_ptr<kernels::Mark>> asked_for_;  // by whoever leads
  Batcher<Job> batcher_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_ENCODER_H_
