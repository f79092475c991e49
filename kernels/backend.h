// The operations the service computes with, one implementation a device. `reference` is naive, in
// double precision, and the oracle; `cpu` is Highway and oneDNN. Semantics common to all are in
// kernels/types.h.
//
// Thread-safety: every method may be called from several threads at once; outputs must not overlap
// inputs unless said. Arguments are checked by the caller: a shape that does not fit is a bug. Cost
// is stated in rows (r) of width w.
#ifndef MSA_KERNELS_BACKEND_H_
#define MSA_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/types.h"

namespace msa::kernels {

// A weight matrix [out_features, in_features] in the layout its backend wants. Immutable.
class LinearWeights {
 public:
  virtual ~LinearWeights() = default;
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;

  // ---- Memory: pooling, folding, precision, routing
  // ------------------------------------------------------------- Mean over each run of
  // `chunk_tokens` rows of x [num_tokens, width], the last run may be shorter; each chunk is summed
  // by itself in float32. out [ceil(num_tokens / chunk_tokens), width]. NUMERICS "Chunk pooling".
  virtual void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                          float* out) const = 0;

  // In place: each row of x [rows, head_dim] divided by max(its L2 norm, 1e-12).
  virtual void L2Normalize(float* x, int64_t rows, int64_t head_dim) const = 0;

  // out[t, g, :] = Σ over the heads h of KV group g of q[t, h, :], divided by num_q_heads.
  // q [num_tokens, num_q_heads, head_dim], out [num_tokens, num_kv_heads, head_dim].
  virtual void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                           int head_dim, float* out) const = 0;

  // x [rows, width] to `dtype`: kFloat32 copies, kBFloat16 rounds to nearest even, kInt8 is
  // symmetric with one scale a row: scale = max|x| / 127, round to nearest even; a row of zeros has
  // scale 0. `scales` [rows], kInt8 only.
  virtual void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                        float* scales) const = 0;
  virtual void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width,
                          DType dtype, float* out) const = 0;

  // Scores of every part of a segment for every question: one pass over the keys, no [tokens,
  // chunks] matrix in memory.
  virtual void ScoreParts(const ScoreArgs& args) const = 0;

  // The best `k` of candidates (kNoScore and NaN are never taken) in the order of Precedes. scores
  // [n], references [n]; visible is null or [n], 0 = masked. Returns at most k.
  virtual std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                             absl::Span<const int64_t> references,
                                             const uint8_t* visible, int k) const = 0;

  // ---- Attention
  // ------------------------------------------------------------------------------------------------
  // Every element of the span is independent (one sequence each); decode batches and prefill alike.
  virtual void Attend(absl::Span<const AttentionArgs> sequences) const = 0;

  // ---- Decoder
  // --------------------------------------------------------------------------------------------------
  // Holds w [out_features, in_features] in `format`. RESOURCE_EXHAUSTED when memory runs out.
  virtual absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w,
                                                                    int64_t out_features,
                                                                    int64_t in_features,
                                                                    WeightFormat format) const = 0;
  // y [rows, out_features] = x [rows, in_features] · wᵀ (+ bias [out_features] where not null). `w`
  // is of this backend.
  virtual void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
                      float* y) const = 0;
  // out = x / sqrt(mean(x²) + eps) · weight, row by row; x, out [rows, width], may be the same
  // array.
  virtual void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
                       float* out) const = 0;
  // In place on x [num_tokens, num_heads, head_dim]: rotates the halves (i, i + head_dim/2) of each
  // head by angle positions[t] · inv_freq[i]; inv_freq [head_dim/2]; angles and sines in float32 as
  // transformers computes them; `magnitude` multiplies sine and cosine (1 except for YaRN).
  virtual void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
                    const float* inv_freq, float magnitude) const = 0;
  // out[i] = silu(gate[i]) · up[i]; arrays may be the same.
  virtual void SiluMul(const float* gate, const float* up, int64_t n, float* out) const = 0;
  // x[i] += y[i].
  virtual void Add(float* x, const float* y, int64_t n) const = 0;
};

// `name` is "reference" or "cpu"; INVALID_ARGUMENT for another. num_threads 0 = one a core. The
// only place that knows which backends were built.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int num_threads);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_BACKEND_H_
