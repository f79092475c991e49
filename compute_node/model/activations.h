// A pass's tensors: one allocation in memory of the backend, cut up.
#ifndef MSA_COMPUTE_NODE_MODEL_ACTIVATIONS_H_
#define MSA_COMPUTE_NODE_MODEL_ACTIVATIONS_H_

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "common/status_macros.h"
#include "compute_node/model/config.h"
#include "kernels/backend.h"

namespace msa::compute_node {

class Activations {
 public:
  // Room for `rows` tokens.
  static absl::StatusOr<Activations> Make(const kernels::Backend& backend, const ModelConfig& c,
                                          int64_t rows) {
    const int64_t q_width = int64_t{c.num_q_heads} * c.head_dim;
    const int64_t kv_width = int64_t{c.num_kv_heads} * c.head_dim;
    const int64_t product_width = std::max<int64_t>(2 * c.intermediate_size, c.hidden_size);
    Activations a;
    a.rows = rows;
    const std::pair<float**, int64_t> tensors[] = {{&a.hidden, c.hidden_size},
                                                   {&a.normed, c.hidden_size},
                                                   {&a.qkv, q_width + 2 * kv_width},
                                                   {&a.q, q_width},
                                                   {&a.k, kv_width},
                                                   {&a.v, kv_width},
                                                   {&a.attended, q_width},
                                                   {&a.product, product_width},
                                                   {&a.gated, c.intermediate_size}};
    constexpr int64_t kAlign = 64;  // floats; a device reads whole lines
    const auto padded = [&](int64_t width) {
      return (rows * width + kAlign - 1) / kAlign * kAlign;
    };
    int64_t size = padded(1);
    for (const auto& [tensor, width] : tensors) size += padded(width);
    MSA_ASSIGN_OR_RETURN(a.memory_, backend.Allocate(size * sizeof(float)));
    float* next = a.memory_.as<float>();
    a.positions = reinterpret_cast<int32_t*>(next);
    next += padded(1);
    for (const auto& [tensor, width] : tensors) {
      *tensor = next;
      next += padded(width);
    }
    return a;
  }

  int64_t rows = 0;  // in use
  int32_t* positions = nullptr;
  float *hidden, *normed, *qkv, *q, *k, *v, *attended;
  float* product;  // room for what is added or gated: [rows, 2 · intermediate], at least hidden
  float* gated;    // or bfloat16, where the products take it so

 private:
  Activations() = default;
  kernels::Buffer memory_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_ACTIVATIONS_H_
