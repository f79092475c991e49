// The operations the service computes with, one implementation a device. `reference` is naive, in
// double precision, and the oracle; `cpu` is Highway and oneDNN; `cuda` NVIDIA GPUs. Semantics
// common to all: kernels/types.h.
//
// Pointers may be of the processor's memory or of the backend's own (Allocate). A backend with
// memory of its own works on what lies there without waiting, in the order of the calls; results
// for the processor's memory are there when the call returns, and arguments there are copied over
// first: right for tests and small things, slow for a model.
//
// Thread-safety: every method may be called from several threads at once; outputs must not overlap
// inputs unless said. Arguments are checked by the caller: a shape that does not fit is a bug. Cost
// is stated in rows (r) of width w.
#ifndef MSA_KERNELS_BACKEND_H_
#define MSA_KERNELS_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/best_lists.h"
#include "kernels/buffer.h"
#include "kernels/handles.h"
#include "kernels/make_backend.h"
#include "kernels/types.h"

namespace msa::kernels {

class DecodeSteps;
struct DecodeShape;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;

  // ---- Memory of the backend
  // What a device that is nearly full still gives: all to kWork (activations, K,V of sessions,
  // weights), less to kCache (blocks, to be had again), least to kResident (a bank's keys), which
  // falls back to the processor's memory, read through the bus.
  enum class Purpose { kWork, kCache, kResident };
  // RESOURCE_EXHAUSTED when there is none.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose purpose = Purpose::kWork) const;
  // What Allocate can still give before kResident falls back. For choosing among members.
  virtual int64_t free_bytes() const { return INT64_MAX; }
  virtual int64_t host_tier_bytes() const { return 0; }  // in use, fallen back
  // The backends this one is made of, itself if it is no group (kernels/group_backend.h). A bank's
  // keys lie with one of them, segment by segment (KeySegment::member).
  virtual int num_members() const { return 1; }
  virtual const Backend& member(int) const { return *this; }
  // From and to either memory. When `to` is the processor's, the bytes are there on return.
  virtual void Copy(void* to, const void* from, size_t bytes) const;
  // Where the backend's bytes are, in the processor's memory, once a mark made later has passed;
  // null data: no room, Copy must do. A mark is null when all that was asked for is done.
  virtual Buffer StartFetch(const void* from, size_t bytes) const { return Buffer(); }
  virtual std::unique_ptr<Mark> MakeMark() const { return nullptr; }
  // Whether the processor may read and write what Allocate gives.
  virtual bool memory_is_host() const { return true; }
  // An operation that failed since the start, or OK. Operations return nothing: whoever hands
  // results on asks here first. A device that failed stays failed.
  virtual absl::Status Health() const { return absl::OkStatus(); }
  // The same; RESOURCE_EXHAUSTED where a pass, or what was asked of its scores, lacked memory.
  virtual absl::Status StatusOf(const float* /*scores*/) const { return Health(); }

  // Run asks for what `operations` asks for: at once, in the order of the calls. A device records
  // them when they come again, and then starts them in one go: they use memory of the backend only,
  // whose addresses and sizes stay while its content changes, and ask for nothing else.
  virtual std::unique_ptr<Recording> Record(std::function<void()> operations) const;

  // out [rows, width] = columns begin … begin + width - 1 of x [rows, stride].
  virtual void CopyColumns(const float* x, int64_t rows, int64_t stride, int64_t begin,
                           int64_t width, float* out) const;
  // Copies rows of k and v [*, width] to where each sequence keeps its own. KvDType: the precision
  // in which K and V of the head size are best kept, without loss beyond what Attend rounds anyway.
  virtual DType KvDType(int head_dim) const { return DType::kFloat32; }
  virtual void AppendRows(const float* k, const float* v, int64_t width,
                          absl::Span<const AppendArgs> targets) const;
  // out [rows.size(), width] = the rows of x [*, width] named.
  virtual void GatherRows(const float* x, int64_t width, absl::Span<const int32_t> rows,
                          float* out) const;

  // ---- Memory of documents: pooling, folding, precision, routing
  // Mean over each run of `chunk_tokens` rows of x [num_tokens, width], the last may be shorter,
  // each summed by itself in float32 (NUMERICS "Chunk pooling"). out [ceil(num_tokens /
  // chunk_tokens), width].
  virtual void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                          float* out) const = 0;

  virtual void PoolPacked(const PoolPackedArgs& args) const;

  // In place: each row of x [rows, head_dim] divided by max(its L2 norm, 1e-12).
  virtual void L2Normalize(float* x, int64_t rows, int64_t head_dim) const = 0;

  // out[t, g, :] = Σ over the heads h of KV group g of q[t, h, :], divided by num_q_heads.
  // q [num_tokens, num_q_heads, head_dim], out [num_tokens, num_kv_heads, head_dim].
  virtual void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                           int head_dim, float* out) const = 0;

  // x [rows, width] to `dtype`: kFloat32 copies, kBFloat16 rounds to nearest even. kInt8 and
  // kFloat8 are steps of one scale a row, max|x| / 127 and max|x| / 448: x / scale, saturated,
  // rounded to nearest even. A row of zeros has scale 0; one with a NaN has scale NaN. `scales`
  // [rows], where HasScales(dtype).
  virtual void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                        float* scales) const = 0;
  virtual void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width,
                          DType dtype, float* out) const = 0;

  // Scores of every part of a segment for every question: one pass over the keys, no [tokens,
  // chunks] matrix in memory.
  virtual void ScoreParts(const ScoreArgs& args) const = 0;

  // All segments of a bank's layer in one pass. False where the scores are exact, which is known
  // before they are there: nothing else has to be asked of them. `errors` say the same.
  virtual bool ScoreBank(const ScoreBankArgs& args) const;
  virtual void ScoreListed(const ScoreListedArgs& args) const;
  // Raises *max_norm to the largest L2 norm of the segment's keys from `first_chunk` on, rounded
  // up. NaN when one of them is.
  virtual void RaiseMaxNorm(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                            float* max_norm) const;
  // Codes and scales of the segment's keys from `first_chunk` on, into the arrays of the whole
  // segment, `codes` [num_chunks, key_width / 2] and `scales` [num_chunks]
  // (kernels/coarse_codes.h). key_width is a multiple of 64.
  virtual void EncodeCoarse(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                            uint8_t* codes, float* scales) const;
  // mean[i] = the sum of scores[j][i] over j, in double precision and this order, divided by their
  // number. scores[j] [n]; the array of pointers is in the processor's memory.
  virtual void MeanOfScores(absl::Span<const float* const> scores, int64_t n, float* mean) const;

  // The best `k` (1 … 1,024) of scores [n], score descending, then the lower index; kNoScore and
  // NaN are never taken. For scores in memory of a backend that cannot be read from here.
  using IndexedScore = kernels::IndexedScore;
  virtual std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const;
  // The same, left where others of a group take it (kernels/best_lists.h). n may be 0.
  virtual void TopIndicesInto(const float* scores, int64_t n, int k, void* out) const;

  // What a selection from scores that may be off has to know, waited for once: the parts that
  // TopIndices gives, each with its exact score (ScoreListed), and the error of the pass.
  virtual BestListed ListBest(const ListBestArgs& args) const;
  virtual void ListBestInto(const ListBestArgs& args, void* out) const;  // as TopIndicesInto

  // The best `k` of candidates (kNoScore and NaN are never taken) in the order of Precedes. scores
  // [n], references [n]; visible is null or [n], 0 = masked. Returns at most k.
  virtual std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                             absl::Span<const int64_t> references,
                                             const uint8_t* visible, int k) const = 0;

  // ---- Attention
  // Every element of the span is independent (one sequence each); decode batches and prefill alike.
  virtual void Attend(absl::Span<const AttentionArgs> sequences) const = 0;
  // The steps of sequences that grow token by token (kernels/decode_steps.h), at most
  // `max_sequences` at once. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::unique_ptr<DecodeSteps>> MakeDecodeSteps(const DecodeShape& shape,
                                                                       int max_sequences) const;

  // ---- Decoder
  // out [ids.size(), width] = rows of table [vocab, width] of `dtype` (kFloat32 or kBFloat16). Ids
  // in memory of the backend are not looked at here.
  virtual void Embed(const void* table, DType dtype, int64_t width, absl::Span<const int32_t> ids,
                     float* out) const;
  // Holds w [out_features, in_features] in `format`. RESOURCE_EXHAUSTED when memory runs out.
  virtual absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w,
                                                                    int64_t out_features,
                                                                    int64_t in_features,
                                                                    WeightFormat format) const = 0;
  // Whether Linear rounds x to bfloat16 for weights of this format.
  virtual bool rounds_activations(WeightFormat format) const { return false; }
  // y [rows, out_features] = x [rows, in_features] · wᵀ (+ bias where not null). `w` is its own.
  virtual void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
                      float* y) const = 0;
  // The same with what comes before and after it.
  virtual void FusedLinear(const LinearWeights& w, const LinearArgs& args) const;
  // out = x / sqrt(mean(x²) + eps) · weight, row by row; x, out [rows, width], may be one array.
  virtual void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
                       float* out) const = 0;
  // In place on x [num_tokens, num_heads, head_dim]: rotates the halves (i, i + head_dim/2) of each
  // head by angle positions[t] · inv_freq[i]; inv_freq [head_dim/2]; angles and sines in float32 as
  // transformers computes them; `magnitude` multiplies sine and cosine (1 except for YaRN).
  virtual void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
                    const float* inv_freq, float magnitude) const = 0;
  // Cuts packed rows into q, k and v; RmsNorm on q's and k's heads where the family has it, Rope.
  virtual void SplitQkv(const SplitQkvArgs& args) const;
  // out [rows, width]: silu(gate) · up; a row of `gate_up` [rows, 2 · width] is gate, then up.
  virtual void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) const = 0;
  // indices[r] = the lowest index of a largest element of x[r, 0 … width - 1].
  virtual void ArgMax(const float* x, int64_t rows, int64_t width, int32_t* indices) const;
  // x[i] += y[i].
  virtual void Add(float* x, const float* y, int64_t n) const = 0;
};

// The bytes in memory of the backend.
absl::StatusOr<Buffer> CopyToBackend(const Backend& backend, const void* data, size_t bytes);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_BACKEND_H_
