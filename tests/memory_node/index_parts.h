// Encoded documents as the routing index takes them.
#ifndef MSA_TESTS_MEMORY_NODE_INDEX_PARTS_H_
#define MSA_TESTS_MEMORY_NODE_INDEX_PARTS_H_

#include "memory_node/routing_index.h"
#include "rpc/types.h"

namespace msa::memory_node {

inline IndexPart PartOf(const rpc::EncodedPart& part) {
  IndexPart added{part.reference, part.routing_chunks, part.content_chunks, {}};
  for (const auto& layer : part.layers) added.layers.push_back(layer.routing.view());
  return added;
}

inline SegmentShape KeyShapeOf(const rpc::BankSpec& bank) {
  return {bank.routing_dtype, bank.routing.key_width(),
          static_cast<int>(bank.router_layers.size())};
}

}  // namespace msa::memory_node

#endif  // MSA_TESTS_MEMORY_NODE_INDEX_PARTS_H_
