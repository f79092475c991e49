// Decode, token after token: what a batch of sequences needs from step to step, kept where the
// backend computes, so that a step's operations can be recorded once (Backend::Record) and run for
// other tokens, other lengths and other sequences.
#ifndef MSA_KERNELS_DECODE_STEPS_H_
#define MSA_KERNELS_DECODE_STEPS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"

namespace msa::kernels {

// The same for every layer and sequence.
struct DecodeShape {
  int num_layers = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
};

// What a sequence attends to in one layer: blocks, then its own rows, which have room to grow.
struct DecodeLayer {
  absl::Span<const KvView> blocks;
  void* k = nullptr;  // [capacity, num_kv_heads · head_dim] of KvDType
  void* v = nullptr;
};

struct DecodeSequence {
  absl::Span<const DecodeLayer> layers;
  int64_t capacity = 0;
};

// A sequence's next token.
struct DecodeInput {
  int32_t id = 0;
  int32_t position = 0;
  int64_t num_tokens = 0;  // own rows before it, below the capacity
};

// Not thread-safe. A step is: SetInputs, then, in this order and usually recorded, Start, a layer's
// Attend each, Choose; then Tokens. Sums of a sequence do not depend on the others.
class DecodeSteps {
 public:
  virtual ~DecodeSteps() = default;

  // The sequences of the steps to come, whose memory must live until the last of them.
  // All in memory of the backend. RESOURCE_EXHAUSTED; FAILED_PRECONDITION when these take
  // Backend::Attend.
  virtual absl::Status SetSequences(absl::Span<const DecodeSequence> sequences) = 0;
  // Changes when what was recorded before must be recorded anew.
  virtual int64_t layout() const = 0;
  virtual void SetInputs(absl::Span<const DecodeInput> inputs) = 0;

  // For the first `rows` sequences. After it, ids [rows] and positions [rows] are those of the
  // step.
  virtual void Start(int64_t rows) = 0;
  virtual const int32_t* ids() const = 0;
  virtual const int32_t* positions() const = 0;
  // SplitQkv, whose k and v go to the sequences' own rows; then attention of q over the blocks and
  // those rows: [rows, num_q_heads, head_dim], valid until the next call. q, k and v of `args` are
  // not used.
  virtual const float* Attend(int layer, const SplitQkvArgs& args) = 0;
  // The index of the largest of each row of logits [rows, vocab], the lowest of equals.
  virtual void Choose(const float* logits, int64_t rows, int64_t vocab) = 0;

  // What was chosen; waits for it.
  virtual absl::Span<const int32_t> Tokens(int64_t rows) = 0;
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_DECODE_STEPS_H_
