#include "compute_node/routed_hook.h"

#include <utility>

#include "common/status_macros.h"

namespace msa::compute_node {

absl::Status RoutedHook::Ask(const Transformer& transformer, int layer,
                             const AttentionInputs& inputs) {
  if (!Routes(layer)) return OnQueries(layer, {});
  MSA_ASSIGN_OR_RETURN(auto queries, OwnQueries(transformer, layer, inputs));
  return OnQueries(layer, std::move(queries));
}

absl::StatusOr<std::vector<float>> RoutedHook::OwnQueries(const Transformer& transformer, int layer,
                                                          const AttentionInputs& inputs) const {
  const absl::Span<const int32_t> rows = query_rows();
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer queries,
                       RoutingQueries(transformer, shape(), layer, inputs, rows));
  return QueriesOf(transformer.backend(), queries, shape(), 0, rows.size());
}

absl::StatusOr<kernels::Buffer> RoutingQueries(const Transformer& transformer,
                                               const RoutingShape& shape, int layer,
                                               const AttentionInputs& inputs,
                                               absl::Span<const int32_t> rows) {
  const kernels::Backend& backend = transformer.backend();
  const auto tokens = static_cast<int64_t>(rows.size());
  MSA_ASSIGN_OR_RETURN(kernels::Buffer projected, transformer.RouterQueries(layer, inputs, rows));
  if (transformer.config().memory.cosine) {
    backend.L2Normalize(projected.as<float>(), tokens * shape.num_q_heads, shape.head_dim);
  }
  if (!shape.folded()) return projected;
  MSA_ASSIGN_OR_RETURN(kernels::Buffer folded,
                       backend.Allocate(tokens * shape.query_width() * sizeof(float)));
  backend.FoldQueries(projected.as<float>(), tokens, shape.num_q_heads, shape.num_kv_heads,
                      shape.head_dim, folded.as<float>());
  return folded;
}

std::vector<float> QueriesOf(const kernels::Backend& backend, const kernels::Buffer& queries,
                             const RoutingShape& shape, size_t begin, size_t count) {
  std::vector<float> rows(count * shape.query_width());
  backend.Copy(rows.data(), queries.as<float>() + begin * shape.query_width(),
               rows.size() * sizeof(float));
  return rows;
}

}  // namespace msa::compute_node
