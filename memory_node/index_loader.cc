#include "memory_node/index_loader.h"

#include "common/block_layout.h"
#include "common/status_macros.h"

namespace msa::memory_node {
namespace {

// Large enough that a copy to a GPU is as fast as it gets, small enough to stay in a core's cache
// share between being gathered and being copied.
constexpr int64_t kBatchBytes = 16 << 20;

}  // namespace

IndexLoader::IndexLoader(RoutingIndex& index, int64_t parts, int64_t chunks)
    : index_(index),
      shape_(index.shape()),
      capacity_parts_(parts),
      capacity_chunks_(chunks),
      keys_(shape_.num_layers),
      scales_(shape_.num_layers) {}

absl::Status IndexLoader::Add(absl::Span<const IndexPart> document) {
  const uint64_t sequence = index_.NextSequence();
  for (const IndexPart& part : document) {
    const RoutingBlockLayout layout(shape_.dtype, part.chunks, shape_.key_width);
    const size_t key_bytes = part.chunks * shape_.KeyBytes();
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      const char* block = part.layers[layer].data();
      keys_[layer].insert(keys_[layer].end(), block, block + key_bytes);
      scales_[layer].insert(scales_[layer].end(), block + layout.scales_offset,
                            block + layout.size);
    }
    entries_.push_back({part.reference, 0, part.chunks, part.content_chunks});
    added_.push_back(sequence);
    chunks_ += part.chunks;
  }
  const bool full = chunks_ * static_cast<int64_t>(shape_.ChunkBytes()) >= kBatchBytes;
  return full ? Flush() : absl::OkStatus();
}

absl::Status IndexLoader::Flush() {
  if (entries_.empty()) return absl::OkStatus();
  if (segment_ == nullptr) {
    MSA_ASSIGN_OR_RETURN(segment_, index_.MakeSegment(capacity_parts_, capacity_chunks_));
  }
  std::vector<KeySource> sources;
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    sources.push_back({keys_[layer].data(), scales_[layer].data()});
  }
  MSA_RETURN_IF_ERROR(index_.Load(*segment_, absl::MakeSpan(entries_), sources, added_));
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    keys_[layer].clear();
    scales_[layer].clear();
  }
  entries_.clear();
  added_.clear();
  chunks_ = 0;
  return absl::OkStatus();
}

}  // namespace msa::memory_node
