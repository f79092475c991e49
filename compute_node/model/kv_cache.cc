#include "compute_node/model/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/status_macros.h"

namespace msa::compute_node {
namespace {

uint64_t NewStorage() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

absl::Status KvCache::Grow(Layer& layer, int64_t num_tokens) {
  // Doubling, so that a long answer copies each row a bounded number of times.
  const int64_t capacity = std::max({capacity_, 2 * layer.capacity, num_tokens});
  const size_t held = layer.num_tokens * RowBytes();
  MSA_ASSIGN_OR_RETURN(kernels::Buffer k, backend_.Allocate(capacity * RowBytes()));
  MSA_ASSIGN_OR_RETURN(kernels::Buffer v, backend_.Allocate(capacity * RowBytes()));
  backend_.Copy(k.data(), layer.k.data(), held);
  backend_.Copy(v.data(), layer.v.data(), held);
  layer.k = std::move(k);
  layer.v = std::move(v);
  layer.capacity = capacity;
  storage_ = NewStorage();
  return absl::OkStatus();
}

absl::StatusOr<KvCache::Slots> KvCache::Append(int layer, int64_t num_tokens) {
  Layer& l = layers_[layer];
  const int64_t total = l.num_tokens + num_tokens;
  if (total > l.capacity) MSA_RETURN_IF_ERROR(Grow(l, total));
  const int64_t held = l.num_tokens * RowBytes();
  l.num_tokens = total;
  return Slots{l.k.as<char>() + held, l.v.as<char>() + held};
}

kernels::KvView KvCache::View(int layer) const {
  const Layer& l = layers_[layer];
  kernels::KvView view;
  view.k = l.k.data();
  view.v = l.v.data();
  view.dtype = dtype_;
  view.num_tokens = l.num_tokens;
  return view;
}

absl::Status KvCache::Reserve(int64_t num_tokens) {
  for (Layer& layer : layers_) {
    const int64_t total = layer.num_tokens + num_tokens;
    if (total > layer.capacity) MSA_RETURN_IF_ERROR(Grow(layer, total));
  }
  return absl::OkStatus();
}

void KvCache::Advance() {
  for (Layer& layer : layers_) ++layer.num_tokens;
}

}  // namespace msa::compute_node
