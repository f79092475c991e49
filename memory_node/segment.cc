#include "memory_node/segment.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace msa::memory_node {

using Purpose = kernels::Backend::Purpose;

Segment::Segment(const kernels::Backend& backend, int member, const SegmentShape& shape,
                 int64_t capacity_parts, int64_t capacity_chunks)
    : backend_(backend.member(member)),
      member_(member),
      shape_(shape),
      capacity_chunks_(capacity_chunks),
      part_begin_(capacity_parts + 1),
      normed_chunks_(shape.num_layers),
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
  if (shape_.dtype == DType::kFloat32) return absl::OkStatus();  // its scores are never rounded
  const std::vector<float> zeros(shape_.num_layers);
  const size_t norm_bytes = zeros.size() * sizeof(float);
  MSA_ASSIGN_OR_RETURN(max_norms_, backend_.Allocate(norm_bytes, Purpose::kResident));
  backend_.Copy(max_norms_.data(), zeros.data(), norm_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Make(const kernels::Backend& backend, int member,
                                                       const SegmentShape& shape,
                                                       int64_t capacity_parts,
                                                       int64_t capacity_chunks) {
  std::shared_ptr<Segment> segment(
      new Segment(backend, member, shape, capacity_parts, capacity_chunks));
  MSA_RETURN_IF_ERROR(segment->AllocateKeys());
  return segment;
}

bool Segment::Fits(int64_t parts, int64_t chunks) const {
  const int64_t used = num_parts();
  return used + parts <= static_cast<int64_t>(references_.size()) &&
         part_begin_[used] + chunks <= capacity_chunks_;
}

void Segment::CopyKeys(int64_t first_chunk, int64_t chunks, absl::Span<const KeySource> layers) {
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    backend_.Copy(keys_[layer].as<char>(first_chunk * shape_.KeyBytes()), layers[layer].keys,
                  chunks * shape_.KeyBytes());
    if (!HasScales(shape_.dtype)) continue;
    backend_.Copy(scales_[layer].as<char>(first_chunk * sizeof(float)), layers[layer].scales,
                  chunks * sizeof(float));
  }
}

void Segment::Enter(int64_t part, const PartEntry& entry, uint64_t added, uint64_t removed) {
  references_[part] = entry.reference;
  slots_[part] = entry.slot;
  content_chunks_[part] = entry.content_chunks;
  part_begin_[part + 1] = part_begin_[part] + entry.chunks;
  SetAdded(part, added);
  SetRemoved(part, removed);
}

int64_t Segment::Append(const PartEntry& entry, absl::Span<const KeySource> layers, uint64_t added,
                        uint64_t removed) {
  MSA_CHECK(Fits(1, entry.chunks));
  const int64_t part = num_parts();
  CopyKeys(part_begin_[part], entry.chunks, layers);
  Enter(part, entry, added, removed);
  Show(part, 1);
  return part;
}

int64_t Segment::AppendRun(absl::Span<const PartEntry> entries, absl::Span<const KeySource> layers,
                           absl::Span<const uint64_t> added) {
  const int64_t first = num_parts();
  const auto parts = static_cast<int64_t>(entries.size());
  int64_t chunks = 0;
  for (const PartEntry& entry : entries) chunks += entry.chunks;
  MSA_CHECK(Fits(parts, chunks));
  CopyKeys(part_begin_[first], chunks, layers);
  for (int64_t i = 0; i < parts; ++i) Enter(first + i, entries[i], added[i], kNever);
  Show(first, parts);
  return first;
}

absl::Status Segment::KeepCodes(bool keep) {
  if (keep == (codes_ != nullptr)) return absl::OkStatus();
  if (!keep) {
    codes_ = nullptr;
    return absl::OkStatus();
  }
  MSA_ASSIGN_OR_RETURN(
      codes_, SegmentCodes::Make(backend_, shape_.num_layers, shape_.key_width, capacity_chunks_));
  EncodeCodes(0, num_parts());
  return absl::OkStatus();
}

void Segment::EncodeCodes(int64_t first_part, int64_t num_parts) {
  if (codes_ == nullptr) return;
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    codes_->Encode(layer, Keys(layer, num_parts), part_begin_[first_part]);
  }
}

void Segment::Show(int64_t first, int64_t parts) {
  if (device_part_begin_.data() != nullptr) {
    backend_.Copy(device_part_begin_.as<int64_t>() + first + 1, &part_begin_[first + 1],
                  parts * sizeof(int64_t));
  }
  EncodeCodes(first, first + parts);
  num_parts_.store(first + parts, std::memory_order_release);
}

void Segment::UpdateMaxNorm(int layer_index, int64_t num_parts) const {
  if (max_norms_.data() == nullptr) return;
  std::atomic<int64_t>& normed = normed_chunks_[layer_index];
  int64_t seen = normed.load(std::memory_order_acquire);
  const int64_t chunks = num_chunks(num_parts);
  if (seen >= chunks) return;
  backend_.RaiseMaxNorm(Keys(layer_index, num_parts), shape_.key_width, seen,
                        max_norms_.as<float>() + layer_index);
  // Told after it was asked for: whoever sees it asks for a pass behind it.
  while (seen < chunks && !normed.compare_exchange_weak(seen, chunks, std::memory_order_acq_rel)) {
  }
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
  keys.member = member_;
  if (max_norms_.data() != nullptr) keys.max_norm = max_norms_.as<float>() + layer_index;
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
