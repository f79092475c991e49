// A pass that asks a bank in its router layers, as several passes in one can do it together.
#ifndef MSA_COMPUTE_NODE_ROUTED_HOOK_H_
#define MSA_COMPUTE_NODE_ROUTED_HOOK_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/routing.h"
#include "compute_node/model/transformer.h"

namespace msa::compute_node {

// Where it shares a pass, OnQueries is called instead of OnAttentionInputs.
class RoutedHook : public ForwardHook {
 public:
  virtual bool Routes(int layer) const = 0;
  virtual const RoutingShape& shape() const = 0;
  // Tokens of the sequence that route, ascending, not empty.
  virtual absl::Span<const int32_t> query_rows() const = 0;
  // `queries` are RoutingQueries of query_rows; none in a layer that does not route. May block. An
  // error ends the sequence with it.
  virtual absl::Status OnQueries(int layer, std::vector<float> queries) = 0;

  // What OnQueries takes, of this sequence alone: `inputs` are its rows.
  absl::StatusOr<std::vector<float>> OwnQueries(const Transformer& transformer, int layer,
                                                const AttentionInputs& inputs) const;

 protected:
  // OnAttentionInputs of a pass of its own.
  absl::Status Ask(const Transformer& transformer, int layer, const AttentionInputs& inputs);
};

// [rows, query_width] in memory of the backend: projected, normalised where the model routes by
// cosine, folded where heads are averaged.
absl::StatusOr<kernels::Buffer> RoutingQueries(const Transformer& transformer,
                                               const RoutingShape& shape, int layer,
                                               const AttentionInputs& inputs,
                                               absl::Span<const int32_t> rows);

// Rows `begin` … of those.
std::vector<float> QueriesOf(const kernels::Backend& backend, const kernels::Buffer& queries,
                             const RoutingShape& shape, size_t begin, size_t count);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_ROUTED_HOOK_H_
