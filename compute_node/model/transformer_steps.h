// What Transformer::NextTokens keeps from step to step: tensors at fixed addresses, and a recording
// of the step for each number of sequences. Not thread-safe.
#ifndef MSA_COMPUTE_NODE_MODEL_TRANSFORMER_STEPS_H_
#define MSA_COMPUTE_NODE_MODEL_TRANSFORMER_STEPS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "compute_node/model/activations.h"
#include "compute_node/model/transformer.h"
#include "kernels/decode_steps.h"

namespace msa::compute_node {

class Transformer::Steps {
 public:
  // For up to `max_sequences`. RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<Steps>> Make(const Transformer& transformer,
                                                     int64_t max_sequences);

  int64_t max_sequences() const { return max_sequences_; }
  // The chunks in the order of their caches, whoever came first: a batch that stays the same is
  // then prepared once. As NextTokens; FAILED_PRECONDITION or
  // RESOURCE_EXHAUSTED when it must go another way.
  absl::Status Run(absl::Span<const SequenceChunk* const> sequences);
  absl::Span<const int32_t> tokens(int64_t rows) { return steps_->Tokens(rows); }
  const float* logits() const { return logits_.as<float>(); }

 private:
  Steps(const Transformer& transformer, int64_t max_sequences, Activations activations)
      : transformer_(transformer),
        max_sequences_(max_sequences),
        activations_(std::move(activations)) {}
  // A sequence as it was prepared.
  using Key = std::pair<uint64_t, const AttentionContext*>;
  absl::Status Prepare(absl::Span<const SequenceChunk* const> sequences);
  void Step(int64_t rows);

  const Transformer& transformer_;
  const int64_t max_sequences_;
  Activations activations_;
  kernels::Buffer logits_;  // [max_sequences, vocab]
  std::unique_ptr<kernels::DecodeSteps> steps_;
  std::vector<Key> prepared_;
  int64_t layout_ = -1;
  std::map<int64_t, std::unique_ptr<kernels::Recording>> recordings_;  // by rows
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_TRANSFORMER_STEPS_H_
