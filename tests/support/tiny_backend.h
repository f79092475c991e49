// A backend of few operations, routing and top-k, written straight from kernels/types.h in float32.
// On the integer keys and queries of encoded_documents.h every sum is exact, so its scores are the
// right ones to the bit. For tests of what calls a backend.
#ifndef MSA_TESTS_SUPPORT_TINY_BACKEND_H_
#define MSA_TESTS_SUPPORT_TINY_BACKEND_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"

namespace msa::testing {

class TinyBackend : public kernels::Backend {
 public:
  // `device`: callers must treat its memory as if the processor could not read it. `error`: scores
  // of bounded scans are off by up to so much, `loose_error`: those of loose ones (0: the same).
  explicit TinyBackend(bool device = false, float error = 0, float loose_error = 0)
      : device_(device), error_(error), loose_error_(loose_error == 0 ? error : loose_error) {}

  std::string_view name() const override { return "tiny"; }
  bool memory_is_host() const override { return !device_; }

  void ScoreParts(const kernels::ScoreArgs& args) const override {
    MSA_CHECK(args.shape.folded() && args.shape.query == Reduce::kMax &&
              args.shape.chunk == Reduce::kMax);
    const int64_t parts = args.segment.num_parts();
    for (size_t question = 0; question + 1 < args.query_begin.size(); ++question) {
      for (int64_t part = 0; part < parts; ++part) {
        float best = kNoScore;
        for (int64_t c = args.segment.part_begin[part]; c < args.segment.part_begin[part + 1];
             ++c) {
          for (int32_t row = args.query_begin[question]; row < args.query_begin[question + 1];
               ++row) {
            best = std::max(best, Dot(args, c, row));
          }
        }
        args.scores[question * parts + part] = best == kNoScore ? best : best * args.shape.scale;
      }
    }
  }

  bool ScoreBank(const kernels::ScoreBankArgs& args) const override {
    const bool coarse = Backend::ScoreBank(args);
    if (!kernels::MayRound(args.mode)) return coarse;
    const float error = args.mode == kernels::ScanMode::kLoose ? loose_error_ : error_;
    if (error == 0) return coarse;
    int64_t parts = 0;
    for (const kernels::KeySegment& segment : args.segments) parts += segment.num_parts();
    const auto questions = static_cast<int64_t>(args.query_begin.size()) - 1;
    for (int64_t i = 0; i < questions * parts; ++i) {
      const auto noise = static_cast<float>(static_cast<uint64_t>(i + 1) * 2654435761u % 2001);
      args.scores[i] += (noise / 1000 - 1) * error * 0.99f;
    }
    std::fill_n(args.errors, questions, error);
    return true;
  }
  void RaiseMaxNorm(const kernels::KeySegment&, int64_t, int64_t, float*) const override {}

  std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                     absl::Span<const int64_t> references, const uint8_t* visible,
                                     int k) const override {
    std::vector<ScoredPart> best;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (visible != nullptr && visible[i] == 0) continue;
      if (std::isnan(scores[i]) || scores[i] == kNoScore) continue;
      best.push_back({scores[i], references[i]});
    }
    std::sort(best.begin(), best.end(), Precedes);
    if (best.size() > static_cast<size_t>(k)) best.resize(k);
    return best;
  }

  void PoolChunks(const float*, int64_t, int64_t, int64_t, float*) const override { Absent(); }
  void L2Normalize(float*, int64_t, int64_t) const override { Absent(); }
  void FoldQueries(const float*, int64_t, int, int, int, float*) const override { Absent(); }
  void Quantize(const float*, int64_t, int64_t, DType, void*, float*) const override { Absent(); }
  void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width, DType dtype,
                  float* out) const override {
    kernels::KeySegment segment;
    segment.keys = x;
    segment.dtype = dtype;
    for (int64_t i = 0; i < rows * width; ++i) {
      out[i] = (HasScales(dtype) ? scales[i / width] : 1.0f) * Element(segment, i);
    }
  }
  void Attend(absl::Span<const kernels::AttentionArgs>) const override { Absent(); }
  absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> PackLinear(
      const float*, int64_t, int64_t, kernels::WeightFormat) const override {
    return absl::UnimplementedError("TinyBackend");
  }
  void Linear(const kernels::LinearWeights&, const float*, int64_t, const float*,
              float*) const override {
    Absent();
  }
  void RmsNorm(const float*, const float*, int64_t, int64_t, float, float*) const override {
    Absent();
  }
  void Rope(float*, absl::Span<const int32_t>, int, int, const float*, float) const override {
    Absent();
  }
  void SiluMul(const float*, int64_t, int64_t, float*) const override { Absent(); }
  void Add(float*, const float*, int64_t) const override { Absent(); }

 private:
  static void Absent() { MSA_CHECK(!"TinyBackend has routing and top-k only"); }

  static float Element(const kernels::KeySegment& segment, int64_t index) {
    switch (segment.dtype) {
      case DType::kFloat32:
        return static_cast<const float*>(segment.keys)[index];
      case DType::kBFloat16:
        return ToFloat(static_cast<const BFloat16*>(segment.keys)[index]);
      case DType::kFloat8:
        return ToFloat(static_cast<const Float8*>(segment.keys)[index]);
      default:
        return static_cast<const int8_t*>(segment.keys)[index];
    }
  }

  static float Dot(const kernels::ScoreArgs& args, int64_t chunk, int32_t row) {
    const int width = args.shape.key_width();
    float sum = 0;
    for (int i = 0; i < width; ++i) {
      sum += Element(args.segment, chunk * width + i) *
             args.queries[static_cast<int64_t>(row) * width + i];
    }
    return HasScales(args.segment.dtype) ? args.segment.scales[chunk] * sum : sum;
  }

  bool device_;
  float error_;
  float loose_error_;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_TINY_BACKEND_H_
