#include "kernels/reference/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"

namespace msa::kernels {
namespace {

// One K or V row of a query's head as doubles.
std::vector<double> Row(const AttentionArgs& args, const void* data, const float* scales,
                        DType dtype, int64_t token, int kv_head) {
  const int64_t row = token * args.num_kv_heads + kv_head;
  const double scale = HasScales(dtype) ? scales[row] : 1.0;
  std::vector<double> values(args.head_dim);
  for (int i = 0; i < args.head_dim; ++i) {
    values[i] = scale * ElementAt(data, dtype, row * args.head_dim + i);
  }
  return values;
}

// The rows one query and head sees, in order.
struct Visible {
  std::vector<double> scores;
  std::vector<std::vector<double>> values;
};

void Gather(const AttentionArgs& args, const KvView& view, int64_t num_rows, const float* q,
            int kv_head, Visible* visible) {
  for (int64_t t = 0; t < num_rows; ++t) {
    const std::vector<double> k = Row(args, view.k, view.k_scales, view.dtype, t, kv_head);
    double dot = 0;
    for (int i = 0; i < args.head_dim; ++i) dot += q[i] * k[i];
    visible->scores.push_back(dot * args.scale);
    visible->values.push_back(Row(args, view.v, view.v_scales, view.dtype, t, kv_head));
  }
}

void AttendHead(const AttentionArgs& args, int query, int head) {
  const int64_t offset = (static_cast<int64_t>(query) * args.num_q_heads + head) * args.head_dim;
  const int kv_head = head / (args.num_q_heads / args.num_kv_heads);
  Visible visible;
  for (const KvView& block : args.blocks) {
    Gather(args, block, block.num_tokens, args.q + offset, kv_head, &visible);
  }
  const int64_t local_rows =
      args.causal ? std::clamp<int64_t>(args.first_visible + query + 1, 0, args.local.num_tokens)
                  : args.local.num_tokens;
  Gather(args, args.local, local_rows, args.q + offset, kv_head, &visible);
  std::vector<double> sum(args.head_dim, 0.0);
  double weight_sum = 0;
  if (!visible.scores.empty()) {
    const double top = *std::max_element(visible.scores.begin(), visible.scores.end());
    for (size_t t = 0; t < visible.scores.size(); ++t) {
      const double weight = std::exp(visible.scores[t] - top);
      weight_sum += weight;
      for (int i = 0; i < args.head_dim; ++i) sum[i] += weight * visible.values[t][i];
    }
  }
  for (int i = 0; i < args.head_dim; ++i) {
    args.out[offset + i] = visible.scores.empty() ? 0.0f : static_cast<float>(sum[i] / weight_sum);
  }
}

}  // namespace

void ReferenceAttend(const AttentionArgs& args) {
  for (int query = 0; query < args.num_queries; ++query) {
    for (int head = 0; head < args.num_q_heads; ++head) AttendHead(args, query, head);
  }
}

}  // namespace msa::kernels
