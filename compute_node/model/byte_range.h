// A half-open range of bytes of some text: [begin, end).
#ifndef MSA_COMPUTE_NODE_MODEL_BYTE_RANGE_H_
#define MSA_COMPUTE_NODE_MODEL_BYTE_RANGE_H_

#include <cstddef>

namespace msa::compute_node {

struct ByteRange {
  size_t begin = 0;
  size_t end = 0;

  size_t size() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const ByteRange&) const = default;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_BYTE_RANGE_H_
