// One sequence's q, K and V on both sides, and its attention in double precision.
#ifndef MSA_TESTS_GPU_ATTENTION_SEQUENCE_H_
#define MSA_TESTS_GPU_ATTENTION_SEQUENCE_H_

#include <algorithm>
#include <memory>
#include <thread>

#include "kernels/cuda/attention.h"
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/tensor.h"

namespace msa::kernels::cuda {

inline constexpr int kOracleThreads = 16;

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
