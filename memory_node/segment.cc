#include "memory_node/segment.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace msa::memory_node {

using Purpose = kernels::Backend::Purpose;

Segment::Segment(const kernels::Backend& backend, const SegmentShape& shape, int64_t capacity_parts,
                 int64_t capacity_chunks)
    : backend_(backend),
      shape_(shape),
      capacity_chunks_(capacity_chunks),
      part_begin_(capacity_parts + 1),
      references_(capacity_parts),
      slots_(capacity_parts),
      content_chunks_(capacity_parts),
      added_(capacity_parts),
      removed_(capacity_parts) {}

absl::Status Segment::AllocateKeys() {
  const auto allocate = [&](std::vector<kernels::Buffer>& buffers, size_t bytes) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend_.Allocate(bytes, Purpose::kResident));
    buffers.push_back(std::move(buffer));
    return absl::OkStatus();
  };
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    MSA_RETURN_IF_ERROR(allocate(keys_, capacity_chunks_ * shape_.KeyBytes()));
    if (!HasScales(shape_.dtype)) continue;
    MSA_RETURN_IF_ERROR(allocate(scales_, capacity_chunks_ * sizeof(float)));
  }
  if (backend_.memory_is_host()) return absl::OkStatus();
  const size_t begin_bytes = part_begin_.size() * sizeof(int64_t);
  MSA_ASSIGN_OR_RETURN(device_part_begin_, backend_.Allocate(begin_bytes, Purpose::kResident));
  backend_.Copy(device_part_begin_.data(), part_begin_.data(), begin_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Make(const kernels::Backend& backend,
                                                       const SegmentShape& shape,
                                                       int64_t capacity_parts,
                                                       int64_t capacity_chunks) {
  std::shared_ptr<Segment> segment(new Segment(backend, shape, capacity_parts, capacity_chunks));
  MSA_RETURN_IF_ERROR(segment->AllocateKeys());
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
    backend_.Copy(keys_[layer].as<char>(chunk * shape_.KeyBytes()), layers[layer].keys,
                  entry.chunks * shape_.KeyBytes());
    if (!HasScales(shape_.dtype)) continue;
    backend_.Copy(scales_[layer].as<char>(chunk * sizeof(float)), layers[layer].scales,
                  entry.chunks * sizeof(float));
  }
  references_[part] = entry.reference;
  slots_[part] = entry.slot;
  content_chunks_[part] = entry.content_chunks;
  part_begin_[part + 1] = chunk + entry.chunks;
  if (device_part_begin_.data() != nullptr) {
    backend_.Copy(device_part_begin_.as<int64_t>() + part + 1, &part_begin_[part + 1],
                  sizeof(int64_t));
  }
  SetAdded(part, added);
  SetRemoved(part, removed);
  num_parts_.store(part + 1, std::memory_order_release);
  return part;
}

kernels::KeySegment Segment::Keys(int layer_index, int64_t num_parts) const {
  kernels::KeySegment keys;
  keys.keys = keys_[layer_index].data();
  if (HasScales(shape_.dtype)) keys.scales = scales_[layer_index].as<float>();
  keys.dtype = shape_.dtype;
  const bool on_device = device_part_begin_.data() != nullptr;
  keys.part_begin = {on_device ? device_part_begin_.as<int64_t>() : part_begin_.data(),
                     static_cast<size_t>(num_parts + 1)};
  keys.num_chunks = num_chunks(num_parts);
  return keys;
}

KeySource Segment::Source(int layer_index, int64_t part) const {
  const int64_t chunk = part_begin_[part];
  KeySource source;
  source.keys = keys_[layer_index].as<char>(chunk * shape_.KeyBytes());
  if (HasScales(shape_.dtype)) {
    source.scales = scales_[layer_index].as<char>(chunk * sizeof(float));
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
