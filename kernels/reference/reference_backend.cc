#include "kernels/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "common/check.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_attention.h"
#include "kernels/reference/reference_routing.h"
#include "kernels/weight_format.h"

namespace msa::kernels {
namespace {

// Weights as the format rounds them, kept as float32.
class ReferenceWeights : public LinearWeights {
 public:
  ReferenceWeights(std::vector<float> w, int64_t out_features, int64_t in_features)
      : w_(std::move(w)), out_features_(out_features), in_features_(in_features) {}
  int64_t in_features() const override { return in_features_; }
  int64_t out_features() const override { return out_features_; }
  const float* row(int64_t out) const { return w_.data() + out * in_features_; }

 private:
  std::vector<float> w_;
  int64_t out_features_;
  int64_t in_features_;
};

class ReferenceBackend : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

  void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                  float* out) const override {
    for (int64_t begin = 0; begin < num_tokens; begin += chunk_tokens, out += width) {
      const int64_t end = std::min(begin + chunk_tokens, num_tokens);
      for (int64_t i = 0; i < width; ++i) {
        double sum = 0;
        for (int64_t t = begin; t < end; ++t) sum += x[t * width + i];
        out[i] = static_cast<float>(sum / static_cast<double>(end - begin));
      }
    }
  }

  void L2Normalize(float* x, int64_t rows, int64_t head_dim) const override {
    for (int64_t r = 0; r < rows; ++r, x += head_dim) {
      double squares = 0;
      for (int64_t i = 0; i < head_dim; ++i) squares += static_cast<double>(x[i]) * x[i];
      const double norm = std::max(std::sqrt(squares), 1e-12);
      for (int64_t i = 0; i < head_dim; ++i) x[i] = static_cast<float>(x[i] / norm);
    }
  }

  void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                   int head_dim, float* out) const override {
    const int group = num_q_heads / num_kv_heads;
    for (int64_t t = 0; t < num_tokens; ++t) {
      for (int g = 0; g < num_kv_heads; ++g) {
        for (int i = 0; i < head_dim; ++i) {
          double sum = 0;
          for (int h = g * group; h < (g + 1) * group; ++h) {
            sum += q[(t * num_q_heads + h) * head_dim + i];
          }
          out[(t * num_kv_heads + g) * head_dim + i] = static_cast<float>(sum / num_q_heads);
        }
      }
    }
  }

  void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                float* scales) const override {
    if (dtype == DType::kFloat32) {
      std::copy_n(x, rows * width, static_cast<float*>(out));
    } else if (dtype == DType::kBFloat16) {
      std::transform(x, x + rows * width, static_cast<BFloat16*>(out), ToBFloat16);
    } else if (dtype == DType::kInt8) {
      for (int64_t r = 0; r < rows; ++r) {
        scales[r] = QuantizeRow(x + r * width, width, static_cast<int8_t*>(out) + r * width);
      }
    } else {
      MSA_CHECK(dtype == DType::kFloat8);
      for (int64_t r = 0; r < rows; ++r) {
        scales[r] = QuantizeRow(x + r * width, width, static_cast<Float8*>(out) + r * width);
      }
    }
  }

  void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width, DType dtype,
                  float* out) const override {
    for (int64_t i = 0; i < rows * width; ++i) {
      const double scale = HasScales(dtype) ? scales[i / width] : 1.0;
      out[i] = static_cast<float>(scale * ElementAt(x, dtype, i));
    }
  }

  void ScoreParts(const ScoreArgs& args) const override { ReferenceScoreParts(args); }

  std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                     absl::Span<const int64_t> references, const uint8_t* visible,
                                     int k) const override {
    std::vector<ScoredPart> all;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (visible != nullptr && visible[i] == 0) continue;
      if (std::isnan(scores[i]) || scores[i] == kNoScore) continue;
      all.push_back({scores[i], references[i]});
    }
    std::sort(all.begin(), all.end(), Precedes);
    if (all.size() > static_cast<size_t>(std::max(k, 0))) all.resize(std::max(k, 0));
    return all;
  }

  void Attend(absl::Span<const AttentionArgs> sequences) const override {
    for (const AttentionArgs& sequence : sequences) ReferenceAttend(sequence);
  }

  absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w, int64_t out_features,
                                                            int64_t in_features,
                                                            WeightFormat format) const override {
    std::vector<float> rounded(w, w + out_features * in_features);
    for (int64_t begin = 0; begin < out_features * in_features; begin += in_features) {
      RoundWeights(rounded.data() + begin, in_features, format);
    }
    return std::make_unique<ReferenceWeights>(std::move(rounded), out_features, in_features);
  }

  void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y) const override {
    const auto& weights = static_cast<const ReferenceWeights&>(w);
    const int64_t in = w.in_features();
    const int64_t out = w.out_features();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        double sum = bias == nullptr ? 0.0 : bias[o];
        for (int64_t i = 0; i < in; ++i) {
          sum += static_cast<double>(x[r * in + i]) * weights.row(o)[i];
        }
        y[r * out + o] = static_cast<float>(sum);
      }
    }
  }

  void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
               float* out) const override {
    for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
      const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
      for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(x[i] * inverse * weight[i]);
    }
  }

  void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
            const float* inv_freq, float magnitude) const override {
    const int half = head_dim / 2;
    for (const int32_t position : positions) {
      for (int h = 0; h < num_heads; ++h, x += head_dim) {
        for (int i = 0; i < half; ++i) {
          // The float32 product is the model's definition of the angle, not a loss of precision.
          const float angle = static_cast<float>(position) * inv_freq[i];
          const float cosine = static_cast<float>(std::cos(static_cast<double>(angle))) * magnitude;
          const float sine = static_cast<float>(std::sin(static_cast<double>(angle))) * magnitude;
          const double low = x[i];
          const double high = x[i + half];
          x[i] = static_cast<float>(low * cosine - high * sine);
          x[i + half] = static_cast<float>(high * cosine + low * sine);
        }
      }
    }
  }

  void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) const override {
    for (int64_t i = 0; i < rows * width; ++i) {
      const float* gate = gate_up + i / width * 2 * width + i % width;
      const double g = *gate;
      out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * gate[width]);
    }
  }

  void Add(float* x, const float* y, int64_t n) const override {
    for (int64_t i = 0; i < n; ++i) x[i] += y[i];
  }

 private:
  // NaN when the row has one, so that its scale, and with it the row that is read back, is NaN.
  static float LargestMagnitude(const float* x, int64_t width) {
    float largest = 0;
    for (int64_t i = 0; i < width; ++i) largest = MaxOrNan(largest, std::fabs(x[i]));
    return largest;
  }

  static float QuantizeRow(const float* x, int64_t width, Float8* out) {
    const float scale = LargestMagnitude(x, width) / kFloat8Max;
    for (int64_t i = 0; i < width; ++i) {
      const float steps = x[i] / scale;
      out[i] = ToFloat8(std::isnan(steps) ? 0.0f : steps);
    }
    return scale;
  }

  static float QuantizeRow(const float* x, int64_t width, int8_t* out) {
    const float scale = LargestMagnitude(x, width) / 127.0f;
    for (int64_t i = 0; i < width; ++i) {
      const float steps = std::nearbyint(x[i] / scale);
      out[i] = std::isnan(steps) ? 0 : static_cast<int8_t>(std::clamp(steps, -127.0f, 127.0f));
    }
    return scale;
  }

  // One weight row as `format` holds it.
  static void RoundWeights(float* w, int64_t width, WeightFormat format) {
    if (format == WeightFormat::kBFloat16) {
      for (int64_t i = 0; i < width; ++i) w[i] = ToFloat(ToBFloat16(w[i]));
    } else if (format == WeightFormat::kInt8) {
      std::vector<int8_t> steps(kInt8WeightGroup);
      for (int64_t begin = 0; begin < width; begin += kInt8WeightGroup) {
        const int64_t n = std::min<int64_t>(kInt8WeightGroup, width - begin);
        const float scale = QuantizeRow(w + begin, n, steps.data());
        for (int64_t i = 0; i < n; ++i) w[begin + i] = scale * steps[i];
      }
    }
  }
};

}  // namespace

std::unique_ptr<Backend> MakeReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace msa::kernels
