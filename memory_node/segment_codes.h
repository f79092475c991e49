// 4-bit codes of a segment's keys, beside them with the same backend: what a coarse scan reads
// (docs/decisions/0013). A bank keeps them for all of its segments or for none.
//
// Thread-safety: one writer at a time calls Encode, for chunks that no reader sees yet.
#ifndef MSA_MEMORY_NODE_SEGMENT_CODES_H_
#define MSA_MEMORY_NODE_SEGMENT_CODES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace msa::memory_node {

class SegmentCodes {
 public:
  // Room for codes of `capacity_chunks`. RESOURCE_EXHAUSTED when there is no memory. `backend`, a
  // member of a group, must outlive it.
  static absl::StatusOr<std::shared_ptr<SegmentCodes>> Make(const kernels::Backend& backend,
                                                            int num_layers, int64_t key_width,
                                                            int64_t capacity_chunks);

  // Of the segment's keys of a layer, from `first_chunk` on.
  void Encode(int layer_index, const kernels::KeySegment& keys, int64_t first_chunk);
  void AddTo(int layer_index, kernels::KeySegment* keys) const;

 private:
  SegmentCodes(const kernels::Backend& backend, int64_t key_width)
      : backend_(backend), key_width_(key_width) {}

  const kernels::Backend& backend_;
  const int64_t key_width_;
  std::vector<kernels::Buffer> codes_;   // [num_layers] of [capacity_chunks, key_width / 2]
  std::vector<kernels::Buffer> scales_;  // [num_layers] of [capacity_chunks]
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SEGMENT_CODES_H_
