// K and V of one sequence's own tokens, every layer, in memory of the backend that computes with
// them. Not thread-safe: one session owns it.
#ifndef MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
#define MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace msa::compute_node {

class KvCache {
 public:
  // `width` = num_kv_heads · head_dim. Room for `capacity` tokens of a layer is taken with its
  // first token, more as needed. `backend` must outlive it.
  KvCache(const kernels::Backend& backend, int num_layers, int64_t width, int64_t capacity)
      : backend_(backend), width_(width), capacity_(capacity), layers_(num_layers) {}

  // k, v [num_tokens, width]: K after norm and RoPE. RESOURCE_EXHAUSTED when memory is full.
  absl::Status Append(int layer, const float* k, const float* v, int64_t num_tokens);

  // Valid until the layer's next Append.
  kernels::KvView View(int layer) const;

 private:
  struct Layer {
    kernels::Buffer k, v;  // [capacity, width]
    int64_t num_tokens = 0;
    int64_t capacity = 0;
  };

  absl::Status Grow(Layer& layer, int64_t num_tokens) const;

  const kernels::Backend& backend_;
  int64_t width_;
  int64_t capacity_;
  std::vector<Layer> layers_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
