// One sequence's q, K and V on both sides, and its attention in double precision.
#ifndef MSA_TESTS_GPU_ATTENTION_SEQUENCE_H_
#define MSA_TESTS_GPU_ATTENTION_SEQUENCE_H_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "kernels/cuda/attention.h"
#include "tests/gpu/gpu_test.h"

namespace msa::kernels::cuda {

using ::msa::testing::DeviceBuffer;
using ::msa::testing::RandomFloats;

inline constexpr auto kF32 = ElementType::kFloat32;
inline constexpr auto kBf16 = ElementType::kBFloat16;
inline constexpr auto kInt8 = ElementType::kInt8;
inline constexpr auto kFp8 = ElementType::kFloat8E4M3;
inline constexpr int kOracleThreads = 16;

// One of K and V of a view, on both sides.
struct Tensor {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;   // [tokens · heads], scaled types
  std::vector<double> values;  // what the bytes stand for
  std::unique_ptr<DeviceBuffer<uint8_t>> device;
  std::unique_ptr<DeviceBuffer<float>> device_scales;

  Tensor(int64_t rows, int dim, ElementType type, uint32_t seed)
      : bytes(rows * dim * ElementBytes(type)), values(rows * dim) {
    const std::vector<float> x = RandomFloats(rows * dim, seed);
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = 1.0f / 40 * static_cast<float>(1 + r % 3);
      if (IsScaled(type)) scales.push_back(scale);
      for (int d = 0; d < dim; ++d) Set(r * dim + d, type, x[r * dim + d], scale);
    }
    Upload();
  }

  void Set(int64_t i, ElementType type, float x, float scale) {
    if (type == kF32) {
      reinterpret_cast<float*>(bytes.data())[i] = x;
      values[i] = x;
    } else if (type == kBf16) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(x);
      std::memcpy(bytes.data() + 2 * i, &rounded, 2);
      values[i] = __bfloat162float(rounded);
    } else if (type == kInt8) {
      const float steps = std::clamp(std::round(x / scale), -127.0f, 127.0f);
      bytes[i] = static_cast<uint8_t>(static_cast<int8_t>(steps));
      values[i] = double{steps} * scale;
    } else {
      const __nv_fp8_e4m3 steps(x / scale);
      std::memcpy(bytes.data() + i, &steps, 1);
      values[i] = double{static_cast<float>(steps)} * scale;
    }
  }

  void Upload() {
    device = std::make_unique<DeviceBuffer<uint8_t>>(bytes);
    device_scales = std::make_unique<DeviceBuffer<float>>(scales);
  }
};

struct Block {
  int64_t num_tokens;
  ElementType type;
};

struct Shape {
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
};

class Sequence {
 public:
  Sequence(int num_queries, Shape shape, const std::vector<Block>& blocks, Block local,
           uint32_t seed)
      : shape_(shape),
        q_(RandomFloats(size_t{1} * num_queries * shape.num_q_heads * shape.head_dim, seed)),
        device_q_(q_),
        out_(q_.size()) {
    for (const Block& block : blocks) views_.push_back(Add(block, seed));
    input_.local = Add(local, seed);
    input_.q = device_q_.get();
    input_.out = out_.get();
    input_.num_queries = num_queries;
    input_.first_visible = local.num_tokens - num_queries;
    scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  }
  Sequence(const Sequence&) = delete;

  AttentionInput& input() {
    input_.blocks = views_;
    return input_;
  }
  const Shape& shape() const { return shape_; }
  Tensor& k(size_t view) { return *k_[view]; }
  Tensor& v(size_t view) { return *v_[view]; }
  DeviceBuffer<float>& out() { return out_; }

  // Element (view, token, head, dim) of k or v becomes x, here and on the device.
  void SetElement(Tensor& tensor, int token, int head, int dim, ElementType type, float x) {
    const int64_t row = static_cast<int64_t>(token) * shape_.num_kv_heads + head;
    tensor.Set(row * shape_.head_dim + dim, type, x, 1.0f);
    tensor.Upload();
    Repoint();
  }
  void SetScale(Tensor& tensor, int token, int head, float scale_value) {
    const int64_t row = static_cast<int64_t>(token) * shape_.num_kv_heads + head;
    tensor.scales[row] = scale_value;
    for (int d = 0; d < shape_.head_dim; ++d)
      tensor.values[row * shape_.head_dim + d] *= scale_value;
    tensor.Upload();
    Repoint();
  }

  std::vector<double> Expected() const {
    std::vector<double> expected(q_.size(), 0.0);
    std::vector<std::thread> threads;
    for (int first = 0; first < kOracleThreads; ++first) {
      threads.emplace_back([&, first] {
        for (int i = first; i < input_.num_queries * shape_.num_q_heads; i += kOracleThreads) {
          ExpectHead(i / shape_.num_q_heads, i % shape_.num_q_heads, expected);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return expected;
  }

  float scale;

 private:
  AttentionKv Add(const Block& block, uint32_t seed) {
    const int64_t rows = block.num_tokens * shape_.num_kv_heads;
    const auto salt = static_cast<uint32_t>(2 * k_.size());
    k_.push_back(std::make_unique<Tensor>(rows, shape_.head_dim, block.type, seed * 31 + salt + 1));
    v_.push_back(std::make_unique<Tensor>(rows, shape_.head_dim, block.type, seed * 31 + salt + 2));
    AttentionKv kv;
    kv.num_tokens = block.num_tokens;
    kv.type = block.type;
    Point(kv, k_.size() - 1);
    return kv;
  }

  void Point(AttentionKv& kv, size_t i) {
    kv.k = k_[i]->device->get();
    kv.v = v_[i]->device->get();
    kv.k_scales = IsScaled(kv.type) ? k_[i]->device_scales->get() : nullptr;
    kv.v_scales = IsScaled(kv.type) ? v_[i]->device_scales->get() : nullptr;
  }

  void Repoint() {
    for (size_t i = 0; i < views_.size(); ++i) Point(views_[i], i);
    Point(input_.local, views_.size());
  }

  void ExpectHead(int query, int head, std::vector<double>& expected) const {
    const int dim = shape_.head_dim;
    const int kv_head = head / (shape_.num_q_heads / shape_.num_kv_heads);
    const size_t at = (size_t{1} * query * shape_.num_q_heads + head) * dim;
    std::vector<double> scores;
    std::vector<const double*> values;
    for (size_t view = 0; view < k_.size(); ++view) {
      const bool local = view + 1 == k_.size();
      int64_t rows = local ? input_.local.num_tokens : views_[view].num_tokens;
      if (local && input_.causal) {
        rows = std::clamp<int64_t>(input_.first_visible + query + 1, 0, rows);
      }
      for (int64_t t = 0; t < rows; ++t) {
        const size_t row = (t * shape_.num_kv_heads + kv_head) * dim;
        double dot = 0;
        for (int d = 0; d < dim; ++d) dot += q_[at + d] * k_[view]->values[row + d];
        scores.push_back(dot * scale);
        values.push_back(&v_[view]->values[row]);
      }
    }
    if (scores.empty()) return;
    double top = -INFINITY;
    for (double s : scores) top = std::max(top, std::isnan(s) ? -INFINITY : s);
    double weight_sum = 0;
    std::vector<double> sum(dim, 0.0);
    for (size_t t = 0; t < scores.size(); ++t) {
      const double weight = std::exp(scores[t] - top);
      weight_sum += weight;
      for (int d = 0; d < dim; ++d) sum[d] += weight * values[t][d];
    }
    for (int d = 0; d < dim; ++d) expected[at + d] = sum[d] / weight_sum;
  }

  Shape shape_;
  std::vector<float> q_;
  DeviceBuffer<float> device_q_;
  DeviceBuffer<float> out_;
  std::vector<std::unique_ptr<Tensor>> k_;  // blocks, then local
  std::vector<std::unique_ptr<Tensor>> v_;
  std::vector<AttentionKv> views_;
  AttentionInput input_;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_TESTS_GPU_ATTENTION_SEQUENCE_H_
