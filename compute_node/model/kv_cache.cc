#include "compute_node/model/kv_cache.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"

namespace msa::compute_node {

absl::Status KvCache::Grow(Layer& layer, int64_t num_tokens) const {
  // Doubling, so that a long answer copies each row a bounded number of times.
  const int64_t capacity = std::max({capacity_, 2 * layer.capacity, num_tokens});
  const size_t held = layer.num_tokens * width_ * sizeof(float);
  MSA_ASSIGN_OR_RETURN(kernels::Buffer k, backend_.Allocate(capacity * width_ * sizeof(float)));
  MSA_ASSIGN_OR_RETURN(kernels::Buffer v, backend_.Allocate(capacity * width_ * sizeof(float)));
  backend_.Copy(k.data(), layer.k.data(), held);
  backend_.Copy(v.data(), layer.v.data(), held);
  layer.k = std::move(k);
  layer.v = std::move(v);
  layer.capacity = capacity;
  return absl::OkStatus();
}

absl::Status KvCache::Append(int layer, const float* k, const float* v, int64_t num_tokens) {
  Layer& l = layers_[layer];
  const int64_t total = l.num_tokens + num_tokens;
  if (total > l.capacity) MSA_RETURN_IF_ERROR(Grow(l, total));
  const size_t bytes = num_tokens * width_ * sizeof(float);
  backend_.Copy(l.k.as<float>() + l.num_tokens * width_, k, bytes);
  backend_.Copy(l.v.as<float>() + l.num_tokens * width_, v, bytes);
  l.num_tokens = total;
  return absl::OkStatus();
}

kernels::KvView KvCache::View(int layer) const {
  const Layer& l = layers_[layer];
  kernels::KvView view;
  view.k = l.k.data();
  view.v = l.v.data();
  view.num_tokens = l.num_tokens;
  return view;
}

}  // namespace msa::compute_node
