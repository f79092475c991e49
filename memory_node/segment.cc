#include "memory_node/segment.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace msa::memory_node {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePageBytes = 2 << 20;

}  // namespace

Segment::Segment(const SegmentShape& shape, int64_t capacity_parts, int64_t capacity_chunks)
    : shape_(shape),
      capacity_chunks_(capacity_chunks),
      part_begin_(capacity_parts + 1),
      references_(capacity_parts),
      slots_(capacity_parts),
      content_chunks_(capacity_parts),
      added_(capacity_parts),
      removed_(capacity_parts) {}

Segment::Buffer Segment::Allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kAlignment;
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  Buffer buffer(static_cast<char*>(std::aligned_alloc(alignment, rounded)));
  // A scan walks the whole array: larger pages spare it most of the address translation.
  if (buffer != nullptr && alignment == kHugePageBytes) {
    madvise(buffer.get(), rounded, MADV_HUGEPAGE);
  }
  return buffer;
}

std::shared_ptr<Segment> Segment::Make(const SegmentShape& shape, int64_t capacity_parts,
                                       int64_t capacity_chunks) {
  std::shared_ptr<Segment> segment(new Segment(shape, capacity_parts, capacity_chunks));
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    segment->keys_.push_back(Allocate(capacity_chunks * shape.KeyBytes()));
    if (segment->keys_.back() == nullptr) return nullptr;
    if (shape.dtype != DType::kInt8) continue;
    segment->scales_.push_back(Allocate(capacity_chunks * sizeof(float)));
    if (segment->scales_.back() == nullptr) return nullptr;
  }
  return segment;
}

bool Segment::Fits(int64_t parts, int64_t chunks) const {
  const int64_t used = num_parts();
  return used + parts <= static_cast<int64_t>(references_.size()) &&
         part_begin_[used] + chunks <= capacity_chunks_;
}

int64_t Segment::Append(const PartEntry& entry, absl::Span<const KeySource> layers, uint64_t added,
                        uint64_t removed) {
  MSA_CHECK(Fits(1, entry.chunks));
  const int64_t part = num_parts();
  const int64_t chunk = part_begin_[part];
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    std::memcpy(keys_[layer].get() + chunk * shape_.KeyBytes(), layers[layer].keys,
                entry.chunks * shape_.KeyBytes());
    if (shape_.dtype != DType::kInt8) continue;
    std::memcpy(scales_[layer].get() + chunk * sizeof(float), layers[layer].scales,
                entry.chunks * sizeof(float));
  }
  references_[part] = entry.reference;
  slots_[part] = entry.slot;
  content_chunks_[part] = entry.content_chunks;
  part_begin_[part + 1] = chunk + entry.chunks;
  SetAdded(part, added);
  SetRemoved(part, removed);
  num_parts_.store(part + 1, std::memory_order_release);
  return part;
}

kernels::KeySegment Segment::Keys(int layer_index, int64_t num_parts) const {
  kernels::KeySegment keys;
  keys.keys = keys_[layer_index].get();
  if (shape_.dtype == DType::kInt8) {
    keys.scales = reinterpret_cast<const float*>(scales_[layer_index].get());
  }
  keys.dtype = shape_.dtype;
  keys.part_begin = {part_begin_.data(), static_cast<size_t>(num_parts + 1)};
  return keys;
}

KeySource Segment::Source(int layer_index, int64_t part) const {
  const int64_t chunk = part_begin_[part];
  KeySource source;
  source.keys = keys_[layer_index].get() + chunk * shape_.KeyBytes();
  if (shape_.dtype == DType::kInt8) {
    source.scales = scales_[layer_index].get() + chunk * sizeof(float);
  }
  return source;
}

PartEntry Segment::Entry(int64_t part) const {
  return {.reference = references_[part],
          .slot = slots_[part],
          .chunks = static_cast<int32_t>(part_begin_[part + 1] - part_begin_[part]),
          .content_chunks = content_chunks_[part]};
}

}  // namespace msa::memory_node
