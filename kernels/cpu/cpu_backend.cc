#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "common/thread_pool.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/routing.h"
#include "kernels/cpu/scratch.h"

namespace msa::kernels {
namespace {

// Elements a range of an elementwise loop should have: less is not worth waking a thread for.
constexpr int64_t kGrainElements = 1 << 14;

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int num_threads) : pool_(num_threads) {}

  std::string_view name() const override { return "cpu"; }

  void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                  float* out) const override {
    const int64_t num_chunks = (num_tokens + chunk_tokens - 1) / chunk_tokens;
    ForRows(num_chunks, width * chunk_tokens, [&](int64_t chunk) {
      const int64_t begin = chunk * chunk_tokens;
      const int64_t end = std::min(begin + chunk_tokens, num_tokens);
      float* sum = out + chunk * width;
      std::copy_n(x + begin * width, width, sum);
      for (int64_t t = begin + 1; t < end; ++t) CpuAdd(sum, x + t * width, width);
      CpuScale(sum, width, 1.0f / static_cast<float>(end - begin));
    });
  }

  void L2Normalize(float* x, int64_t rows, int64_t head_dim) const override {
    ForRows(rows, head_dim, [&](int64_t r) {
      float* row = x + r * head_dim;
      const float norm = std::sqrt(CpuSumOfSquares(row, head_dim));
      CpuScale(row, head_dim, 1.0f / std::max(norm, 1e-12f));
    });
  }

  void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                   int head_dim, float* out) const override {
    const int group = num_q_heads / num_kv_heads;
    ForRows(num_tokens * num_kv_heads, group * head_dim, [&](int64_t row) {
      const float* heads = q + row * group * head_dim;
      float* sum = out + row * head_dim;
      std::copy_n(heads, head_dim, sum);
      for (int h = 1; h < group; ++h) CpuAdd(sum, heads + h * head_dim, head_dim);
      CpuScale(sum, head_dim, 1.0f / static_cast<float>(num_q_heads));
    });
  }

  void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                float* scales) const override {
    MSA_CHECK(dtype != DType::kFloat16);
    ForRows(rows, width, [&](int64_t r) {
      const float* row = x + r * width;
      if (dtype == DType::kFloat32) {
        std::copy_n(row, width, static_cast<float*>(out) + r * width);
      } else if (dtype == DType::kBFloat16) {
        std::transform(row, row + width, static_cast<BFloat16*>(out) + r * width, ToBFloat16);
      } else if (dtype == DType::kInt8) {
        scales[r] = CpuQuantizeRow(row, width, static_cast<int8_t*>(out) + r * width);
      } else {
        scales[r] = CpuQuantizeRow(row, width, static_cast<Float8*>(out) + r * width);
      }
    });
  }

  void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width, DType dtype,
                  float* out) const override {
    MSA_CHECK(dtype != DType::kFloat16);
    ForRows(rows, width, [&](int64_t r) {
      float* row = out + r * width;
      if (dtype == DType::kFloat32) {
        std::copy_n(static_cast<const float*>(x) + r * width, width, row);
      } else if (dtype == DType::kBFloat16) {
        CpuWidenBFloat16(static_cast<const BFloat16*>(x) + r * width, width, row);
      } else if (dtype == DType::kInt8) {
        CpuDequantizeRow(static_cast<const int8_t*>(x) + r * width, width, scales[r], row);
      } else {
        CpuDequantizeRow(static_cast<const Float8*>(x) + r * width, width, scales[r], row);
      }
    });
  }

  void ScoreParts(const ScoreArgs& args) const override { CpuScoreParts(args, pool_); }

  std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                     absl::Span<const int64_t> references, const uint8_t* visible,
                                     int k) const override {
    return CpuSelectTopK(scores, references, visible, k);
  }

  void Attend(absl::Span<const AttentionArgs> sequences) const override {
    CpuAttend(sequences, pool_);
  }

  absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w, int64_t out_features,
                                                            int64_t in_features,
                                                            WeightFormat format) const override {
    return CpuPackLinear(w, out_features, in_features, format, pool_);
  }

  void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y) const override {
    CpuLinear(static_cast<const CpuLinearWeights&>(w), x, rows, bias, y, pool_);
  }

  void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
               float* out) const override {
    ForRows(rows, width, [&](int64_t r) {
      const float mean = CpuSumOfSquares(x + r * width, width) / static_cast<float>(width);
      CpuScaleMul(x + r * width, 1.0f / std::sqrt(mean + eps), weight, width, out + r * width);
    });
  }

  void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
            const float* inv_freq, float magnitude) const override {
    const int half = head_dim / 2;
    const int64_t width = static_cast<int64_t>(num_heads) * head_dim;
    // A sine costs as much as rotating some ten elements.
    ForRows(static_cast<int64_t>(positions.size()), width + 20 * half, [&](int64_t t) {
      thread_local Scratch<float> scratch;
      float* cosines = scratch.Get(2 * half);
      float* sines = cosines + half;
      for (int i = 0; i < half; ++i) {
        const float angle = static_cast<float>(positions[t]) * inv_freq[i];
        cosines[i] = std::cos(angle) * magnitude;
        sines[i] = std::sin(angle) * magnitude;
      }
      for (int h = 0; h < num_heads; ++h) {
        CpuRotate(x + t * width + h * head_dim, cosines, sines, half);
      }
    });
  }

  void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) const override {
    ForRows(rows, width, [&](int64_t r) {
      const float* gate = gate_up + r * 2 * width;
      CpuSiluMul(gate, gate + width, width, out + r * width);
    });
  }

  void Add(float* x, const float* y, int64_t n) const override {
    pool_.ParallelFor(0, n, 4 * kGrainElements, [&](int64_t begin, int64_t end) {
      CpuAdd(x + begin, y + begin, end - begin);
    });
  }

 private:
  // body(row) for every row, on all threads when there is enough to do.
  template <class Body>
  void ForRows(int64_t rows, int64_t elements_per_row, const Body& body) const {
    const int64_t grain =
        std::max<int64_t>(1, kGrainElements / std::max<int64_t>(elements_per_row, 1));
    pool_.ParallelFor(0, rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) body(row);
    });
  }

  mutable ThreadPool pool_;  // its loops are thread-safe
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace msa::kernels
