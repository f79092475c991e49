// A run of parts with their routing keys: one contiguous key array a layer, chunk ordinals shared
// by all layers. Fixed capacity, so that nothing moves: readers go on while one writer appends
// behind what they see.
//
// Keys lie in memory of the backend that scores them; marks and references in the processor's.
//
// Thread-safety: one writer at a time calls Append, KeepCodes and codes(); everything else from any
// thread. A part's keys never change; its marks do.
#ifndef MSA_MEMORY_NODE_SEGMENT_H_
#define MSA_MEMORY_NODE_SEGMENT_H_

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/dtype.h"
#include "kernels/backend.h"
#include "kernels/coarse_codes.h"
#include "memory_node/segment_codes.h"

namespace msa::memory_node {

// Marks of a part. It is seen at sequence s when added <= s < removed.
inline constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();  // not added; not removed
inline constexpr uint64_t kMasked = 0;                                    // removed for everybody

struct SegmentShape {
  DType dtype = DType::kFloat32;  // any but kFloat16
  int64_t key_width = 0;
  int num_layers = 0;

  size_t KeyBytes() const { return key_width * DTypeBytes(dtype); }  // of one chunk and layer
  // Of one chunk, all layers, scales included.
  size_t ChunkBytes() const {
    return num_layers * (KeyBytes() + (HasScales(dtype) ? sizeof(float) : 0));
  }
  // The same of its codes, where the bank keeps them.
  size_t ChunkCodeBytes() const {
    return num_layers * (kernels::CodeBytes(key_width) + sizeof(float));
  }
};

// Where a part's keys of one layer are read from: [chunks, key_width], and [chunks] where there are
// scales; either memory, any alignment.
struct KeySource {
  const char* keys = nullptr;
  const char* scales = nullptr;
};

struct PartEntry {
  int64_t reference = 0;
  uint32_t slot = 0;  // number of the part in its index, reused after it has gone
  int32_t chunks = 0;
  int32_t content_chunks = 0;
};

class Segment {
 public:
  // RESOURCE_EXHAUSTED when there is no memory. All of it lies with one member of `backend`, which
  // must outlive it.
  static absl::StatusOr<std::shared_ptr<Segment>> Make(const kernels::Backend& backend, int member,
                                                       const SegmentShape& shape,
                                                       int64_t capacity_parts,
                                                       int64_t capacity_chunks);

  bool Fits(int64_t parts, int64_t chunks) const;
  // Returns the part's ordinal. `layers` one a layer. REQUIRES: Fits(1, entry.chunks).
  int64_t Append(const PartEntry& entry, absl::Span<const KeySource> layers, uint64_t added,
                 uint64_t removed);
  // Parts whose keys lie one after the other in each of `layers`: one copy a layer. Part i is added
  // at added[i], not removed. Returns the first ordinal. REQUIRES: they fit.
  int64_t AppendRun(absl::Span<const PartEntry> entries, absl::Span<const KeySource> layers,
                    absl::Span<const uint64_t> added);

  // Makes codes of its keys, of those appended later too, or forgets them: readers that hold them
  // go on. RESOURCE_EXHAUSTED when there is no memory for them.
  absl::Status KeepCodes(bool keep);
  std::shared_ptr<const SegmentCodes> codes() const { return codes_; }  // null: none

  // The backend of a group in whose memory it lies.
  int member() const { return member_; }
  int64_t capacity_bytes() const { return capacity_chunks_ * shape_.ChunkBytes(); }

  // Parts that readers may look at: ordinals below.
  int64_t num_parts() const { return num_parts_.load(std::memory_order_acquire); }
  int64_t num_chunks(int64_t num_parts) const { return part_begin_[num_parts]; }

  // Takes the norms of the keys that came since the last time, on a backend that rounds scores.
  void UpdateMaxNorm(int layer_index, int64_t num_parts) const;
  // Of the first `num_parts` parts, without codes. Valid as long as the segment.
  kernels::KeySegment Keys(int layer_index, int64_t num_parts) const;
  absl::Span<const int64_t> references(int64_t num_parts) const {
    return {references_.data(), static_cast<size_t>(num_parts)};
  }
  KeySource Source(int layer_index, int64_t part) const;
  PartEntry Entry(int64_t part) const;
  uint32_t slot(int64_t part) const { return slots_[part]; }
  int32_t content_chunks(int64_t part) const { return content_chunks_[part]; }

  uint64_t added(int64_t part) const { return added_[part].load(std::memory_order_acquire); }
  uint64_t removed(int64_t part) const { return removed_[part].load(std::memory_order_acquire); }
  bool Visible(int64_t part, uint64_t sequence) const {
    return removed(part) > sequence && added(part) <= sequence;
  }
  void SetAdded(int64_t part, uint64_t value) {
    added_[part].store(value, std::memory_order_release);
  }
  void SetRemoved(int64_t part, uint64_t value) {
    removed_[part].store(value, std::memory_order_release);
  }

 private:
  Segment(const kernels::Backend& backend, int member, const SegmentShape& shape,
          int64_t capacity_parts, int64_t capacity_chunks);
  absl::Status AllocateKeys();
  void CopyKeys(int64_t first_chunk, int64_t chunks, absl::Span<const KeySource> layers);
  void EncodeCodes(int64_t first_part, int64_t num_parts);
  void Enter(int64_t part, const PartEntry& entry, uint64_t added, uint64_t removed);
  void Show(int64_t first, int64_t parts);  // to readers

  const kernels::Backend& backend_;  // the member
  const int member_;
  const SegmentShape shape_;
  const int64_t capacity_chunks_;
  std::vector<kernels::Buffer> keys_;    // [num_layers] of [capacity_chunks, key_width]
  std::vector<kernels::Buffer> scales_;  // [num_layers] of [capacity_chunks], where HasScales
  std::vector<int64_t> part_begin_;      // [capacity_parts + 1]
  kernels::Buffer device_part_begin_;    // the same where the backend cannot read the processor's
  kernels::Buffer max_norms_;            // [num_layers] where UpdateMaxNorm takes them
  mutable std::vector<std::atomic<int64_t>> normed_chunks_;  // [num_layers]: those in max_norms_
  std::shared_ptr<SegmentCodes> codes_;
  std::vector<int64_t> references_;
  std::vector<uint32_t> slots_;
  std::vector<int32_t> content_chunks_;
  std::vector<std::atomic<uint64_t>> added_;
  std::vector<std::atomic<uint64_t>> removed_;
  std::atomic<int64_t> num_parts_{0};
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SEGMENT_H_
