// K and V of one sequence's own tokens, every layer, in memory of the backend that computes with
// them. Not thread-safe: one session owns it.
#ifndef MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
#define MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace msa::compute_node {

class KvCache {
 public:
  // `width` = num_kv_heads · head_dim. Room for `capacity` tokens of a layer is taken with its
  // first token, more as needed. `backend` must outlive it.
  KvCache(const kernels::Backend& backend, int num_layers, int64_t width, int64_t capacity,
          DType dtype)
      : backend_(backend), width_(width), capacity_(capacity), dtype_(dtype), layers_(num_layers) {}

  DType dtype() const { return dtype_; }
  int num_layers() const { return static_cast<int>(layers_.size()); }

  // Makes room for `num_tokens` more rows, which the caller writes: [num_tokens, width], K after
  // norm and RoPE. RESOURCE_EXHAUSTED when memory is full.
  struct Slots {
    void* k;
    void* v;
  };
  absl::StatusOr<Slots> Append(int layer, int64_t num_tokens);

  // Valid until the layer's next Append.
  kernels::KvView View(int layer) const;

  // Room for so many more, so that Append of them cannot fail.
  absl::Status Reserve(int64_t num_tokens);
  // Of all layers at once, when they hold equally many tokens: that one more, for which there was
  // room, has been written straight behind the rows of View.
  void Advance();
  Slots Rows(int layer) const { return {layers_[layer].k.data(), layers_[layer].v.data()}; }
  int64_t num_tokens() const { return layers_[0].num_tokens; }
  int64_t capacity() const { return layers_[0].capacity; }
  // A number no other cache has, nor this one with its rows at other addresses.
  uint64_t storage() const { return storage_; }

 private:
  struct Layer {
    kernels::Buffer k, v;  // [capacity, width] of dtype_
    int64_t num_tokens = 0;
    int64_t capacity = 0;
  };

  absl::Status Grow(Layer& layer, int64_t num_tokens);
  int64_t RowBytes() const { return width_ * static_cast<int64_t>(DTypeBytes(dtype_)); }

  const kernels::Backend& backend_;
  int64_t width_;
  int64_t capacity_;
  DType dtype_;
  std::vector<Layer> layers_;
  uint64_t storage_ = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_KV_CACHE_H_
