// A backend that is another one but for what is overridden.
#ifndef MSA_KERNELS_FORWARDING_BACKEND_H_
#define MSA_KERNELS_FORWARDING_BACKEND_H_

#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/decode_steps.h"

namespace msa::kernels {

class ForwardingBackend : public Backend {
 public:
  // Borrowed.
  explicit ForwardingBackend(const Backend& to) : to_(to) {}

  std::string_view name() const override { return to_.name(); }
  absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    return to_.Allocate(bytes, purpose);
  }
  int64_t free_bytes() const override { return to_.free_bytes(); }
  int64_t host_tier_bytes() const override { return to_.host_tier_bytes(); }
  void Copy(void* to, const void* from, size_t bytes) const override { to_.Copy(to, from, bytes); }
  Buffer StartFetch(const void* from, size_t bytes) const override {
    return to_.StartFetch(from, bytes);
  }
  std::unique_ptr<Mark> MakeMark() const override { return to_.MakeMark(); }
  bool memory_is_host() const override { return to_.memory_is_host(); }
  absl::Status Health() const override { return to_.Health(); }
  absl::Status StatusOf(const float* scores) const override { return to_.StatusOf(scores); }
  std::unique_ptr<Recording> Record(std::function<void()> operations) const override {
    return to_.Record(std::move(operations));
  }
  DType KvDType(int head_dim) const override { return to_.KvDType(head_dim); }
  void CopyColumns(const float* x, int64_t rows, int64_t stride, int64_t begin, int64_t width,
                   float* out) const override {
    to_.CopyColumns(x, rows, stride, begin, width, out);
  }
  void AppendRows(const float* k, const float* v, int64_t width,
                  absl::Span<const AppendArgs> targets) const override {
    to_.AppendRows(k, v, width, targets);
  }
  void GatherRows(const float* x, int64_t width, absl::Span<const int32_t> rows,
                  float* out) const override {
    to_.GatherRows(x, width, rows, out);
  }
  void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                  float* out) const override {
    to_.PoolChunks(x, num_tokens, width, chunk_tokens, out);
  }
  void PoolPacked(const PoolPackedArgs& args) const override { to_.PoolPacked(args); }
  void L2Normalize(float* x, int64_t rows, int64_t head_dim) const override {
    to_.L2Normalize(x, rows, head_dim);
  }
  void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                   int head_dim, float* out) const override {
    to_.FoldQueries(q, num_tokens, num_q_heads, num_kv_heads, head_dim, out);
  }
  void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                float* scales) const override {
    to_.Quantize(x, rows, width, dtype, out, scales);
  }
  void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width, DType dtype,
                  float* out) const override {
    to_.Dequantize(x, scales, rows, width, dtype, out);
  }
  void ScoreParts(const ScoreArgs& args) const override { to_.ScoreParts(args); }
  bool ScoreBank(const ScoreBankArgs& args) const override { return to_.ScoreBank(args); }
  void ScoreListed(const ScoreListedArgs& args) const override { to_.ScoreListed(args); }
  void RaiseMaxNorm(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                    float* max_norm) const override {
    to_.RaiseMaxNorm(segment, key_width, first_chunk, max_norm);
  }
  void EncodeCoarse(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                    uint8_t* codes, float* scales) const override {
    to_.EncodeCoarse(segment, key_width, first_chunk, codes, scales);
  }
  void MeanOfScores(absl::Span<const float* const> scores, int64_t n, float* mean) const override {
    to_.MeanOfScores(scores, n, mean);
  }
  std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const override {
    return to_.TopIndices(scores, n, k);
  }
  void TopIndicesInto(const float* scores, int64_t n, int k, void* out) const override {
    to_.TopIndicesInto(scores, n, k, out);
  }
  BestListed ListBest(const ListBestArgs& args) const override { return to_.ListBest(args); }
  void ListBestInto(const ListBestArgs& args, void* out) const override {
    to_.ListBestInto(args, out);
  }
  std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                     absl::Span<const int64_t> references, const uint8_t* visible,
                                     int k) const override {
    return to_.SelectTopK(scores, references, visible, k);
  }
  void Attend(absl::Span<const AttentionArgs> sequences) const override { to_.Attend(sequences); }
  absl::StatusOr<std::unique_ptr<DecodeSteps>> MakeDecodeSteps(const DecodeShape& shape,
                                                               int max_sequences) const override {
    return to_.MakeDecodeSteps(shape, max_sequences);
  }
  void Embed(const void* table, DType dtype, int64_t width, absl::Span<const int32_t> ids,
             float* out) const override {
    to_.Embed(table, dtype, width, ids, out);
  }
  absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w, int64_t out_features,
                                                            int64_t in_features,
                                                            WeightFormat format) const override {
    return to_.PackLinear(w, out_features, in_features, format);
  }
  bool rounds_activations(WeightFormat format) const override {
    return to_.rounds_activations(format);
  }
  void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y) const override {
    to_.Linear(w, x, rows, bias, y);
  }
  void FusedLinear(const LinearWeights& w, const LinearArgs& args) const override {
    to_.FusedLinear(w, args);
  }
  void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
               float* out) const override {
    to_.RmsNorm(x, weight, rows, width, eps, out);
  }
  void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
            const float* inv_freq, float magnitude) const override {
    to_.Rope(x, positions, num_heads, head_dim, inv_freq, magnitude);
  }
  void SplitQkv(const SplitQkvArgs& args) const override { to_.SplitQkv(args); }
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) const override {
    to_.SiluMul(gate_up, rows, width, out);
  }
  void ArgMax(const float* x, int64_t rows, int64_t width, int32_t* indices) const override {
    to_.ArgMax(x, rows, width, indices);
  }
  void Add(float* x, const float* y, int64_t n) const override { to_.Add(x, y, n); }

 protected:
  const Backend& to_;
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_FORWARDING_BACKEND_H_
