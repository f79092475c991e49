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

// A sine costs as much as rotating some ten elements.
constexpr int kSineCost = 20;

void NormRow(const float* x, const float* weight, int64_t width, float eps, float* out) {
  const float mean = CpuSumOfSquares(x, width) / static_cast<float>(width);
  CpuScaleMul(x, 1.0f / std::sqrt(mean + eps), weight, width, out);
}

// The rotation of a position, in this thread's scratch: one at a time.
class Rotation {
 public:
  Rotation(int32_t position, const float* inv_freq, int half, float magnitude) : half_(half) {
    thread_local Scratch<float> scratch;
    cosines_ = scratch.Get(2 * half);
    sines_ = cosines_ + half;
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inv_freq[i];
      cosines_[i] = std::cos(angle) * magnitude;
      sines_[i] = std::sin(angle) * magnitude;
    }
  }
  // x [num_heads, 2 · half], in place.
  void Apply(float* x, int num_heads) const {
    for (int h = 0; h < num_heads; ++h) CpuRotate(x + h * 2 * half_, cosines_, sines_, half_);
  }

 private:
  int half_;
  float* cosines_;
  float* sines_;
};

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
    ForRows(rows, width,
            [&](int64_t r) { NormRow(x + r * width, weight, width, eps, out + r * width); });
  }

  void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
            const float* inv_freq, float magnitude) const override {
    const int half = head_dim / 2;
    const int64_t width = static_cast<int64_t>(num_heads) * head_dim;
    ForRows(static_cast<int64_t>(positions.size()), width + kSineCost * half, [&](int64_t t) {
      const Rotation rotation(positions[t], inv_freq, half, magnitude);
      rotation.Apply(x + t * width, num_heads);
    });
  }

  // One visit of a row: cut, normalised and rotated while it is in cache.
  void SplitQkv(const SplitQkvArgs& a) const override {
    const int64_t q_width = int64_t{a.num_q_heads} * a.head_dim;
    const int64_t kv_width = int64_t{a.num_kv_heads} * a.head_dim;
    const int half = a.head_dim / 2;
    const int64_t stride = q_width + 2 * kv_width;
    ForRows(a.rows, stride + kSineCost * half, [&](int64_t row) {
      const float* in = a.qkv + row * stride;
      float* q = a.q + row * q_width;
      float* k = a.k + row * kv_width;
      std::copy_n(in, q_width, q);
      std::copy_n(in + q_width, kv_width, k);
      std::copy_n(in + q_width + kv_width, kv_width, a.v + row * kv_width);
      if (a.q_norm != nullptr) {
        for (int h = 0; h < a.num_q_heads; ++h) {
          NormRow(q + h * a.head_dim, a.q_norm, a.head_dim, a.eps, q + h * a.head_dim);
        }
        for (int h = 0; h < a.num_kv_heads; ++h) {
          NormRow(k + h * a.head_dim, a.k_norm, a.head_dim, a.eps, k + h * a.head_dim);
        }
      }
      const Rotation rotation(a.positions[row], a.inv_freq, half, 1.0f);
      rotation.Apply(q, a.num_q_heads);
      rotation.Apply(k, a.num_kv_heads);
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
