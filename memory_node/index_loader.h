// Fills one segment of an index at start-up. Each loader has a segment of its own, so that several
// fill an index at once; keys go over in batches, one copy a layer.
#ifndef MSA_MEMORY_NODE_INDEX_LOADER_H_
#define MSA_MEMORY_NODE_INDEX_LOADER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "memory_node/routing_index.h"

namespace msa::memory_node {

// Not thread-safe; loaders of one index are apart from each other. Nobody may read the index
// meanwhile.
class IndexLoader {
 public:
  // `parts` and `chunks`: the most that will be added. `index` must outlive it.
  IndexLoader(RoutingIndex& index, int64_t parts, int64_t chunks);

  // A document, with a sequence number of its own; its blocks are copied before the return.
  // References must be new to the index. RESOURCE_EXHAUSTED when memory is full.
  absl::Status Add(absl::Span<const IndexPart> document);
  // Shows what was added since the last.
  absl::Status Flush();

 private:
  RoutingIndex& index_;
  const SegmentShape& shape_;
  const int64_t capacity_parts_;
  const int64_t capacity_chunks_;
  std::shared_ptr<Segment> segment_;  // made by the first Flush
  // The batch: keys and scales by layer, one part after the other.
  std::vector<std::vector<char>> keys_;
  std::vector<std::vector<char>> scales_;
  std::vector<PartEntry> entries_;
  std::vector<uint64_t> added_;
  int64_t chunks_ = 0;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_INDEX_LOADER_H_
