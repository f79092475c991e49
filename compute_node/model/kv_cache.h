// K and V of one sequence's own tokens, every layer. Not thread-safe: one session owns it.
#ifndef MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
#define MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "kernels/types.h"

namespace msa::compute_node {

class KvCache {
 public:
  // `width` = num_kv_heads · head_dim; room for `capacity` tokens is taken at once, more as needed.
  KvCache(int num_layers, int64_t width, int64_t capacity) : width_(width), layers_(num_layers) {
    for (Layer& layer : layers_) {
      layer.k.reserve(capacity * width);
      layer.v.reserve(capacity * width);
    }
  }

  // k, v [num_tokens, width]: K after norm and RoPE.
  void Append(int layer, const float* k, const float* v, int64_t num_tokens) {
    Layer& l = layers_[layer];
    l.k.insert(l.k.end(), k, k + num_tokens * width_);
    l.v.insert(l.v.end(), v, v + num_tokens * width_);
  }

  // Valid until the layer's next Append.
  kernels::KvView View(int layer) const {
    const Layer& l = layers_[layer];
    kernels::KvView view;
    view.k = l.k.data();
    view.v = l.v.data();
    view.num_tokens = static_cast<int64_t>(l.k.size()) / width_;
    return view;
  }

 private:
  struct Layer {
    std::vector<float> k;
    std::vector<float> v;
  };
  int64_t width_;
  std::vector<Layer> layers_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
