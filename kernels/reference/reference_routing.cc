#include "kernels/reference/reference_routing.h"

#include <vector>

#include "common/check.h"
#include "kernels/reference/elements.h"

namespace msa::kernels {
namespace {

// kMean, kMax or kLast of a list that is not empty.
double Reduced(const std::vector<double>& values, Reduce reduce) {
  if (reduce == Reduce::kLast) return values.back();
  double result = values[0];
  for (size_t i = 1; i < values.size(); ++i) {
    result = reduce == Reduce::kMax ? MaxOrNan(result, values[i]) : result + values[i];
  }
  return reduce == Reduce::kMean ? result / static_cast<double>(values.size()) : result;
}

double KeyAt(const KeySegment& segment, int64_t chunk, int key_width, int i) {
  const double scale = HasScales(segment.dtype) ? segment.scales[chunk] : 1.0;
  return scale * ElementAt(segment.keys, segment.dtype, chunk * key_width + i);
}

// Reduced over heads: the score of one query row and one chunk, before `scale`.
double RowScore(const ScoreArgs& args, const float* query, int64_t chunk) {
  const RoutingShape& shape = args.shape;
  const int key_width = shape.key_width();
  if (shape.folded()) {
    double dot = 0;
    for (int i = 0; i < key_width; ++i) {
      dot += query[i] * KeyAt(args.segment, chunk, key_width, i);
    }
    return dot;  // the fold has divided by the number of heads
  }
  std::vector<double> heads;
  for (int h = 0; h < shape.num_q_heads; ++h) {
    const int kv_head = h / (shape.num_q_heads / shape.num_kv_heads);
    double dot = 0;
    for (int i = 0; i < shape.head_dim; ++i) {
      dot += query[h * shape.head_dim + i] *
             KeyAt(args.segment, chunk, key_width, kv_head * shape.head_dim + i);
    }
    heads.push_back(dot);
  }
  return Reduced(heads, shape.head);
}

double PartScore(const ScoreArgs& args, int question, int64_t part) {
  std::vector<double> chunks;
  for (int64_t c = args.segment.part_begin[part]; c < args.segment.part_begin[part + 1]; ++c) {
    std::vector<double> rows;
    for (int r = args.query_begin[question]; r < args.query_begin[question + 1]; ++r) {
      rows.push_back(
          RowScore(args, args.queries + static_cast<int64_t>(r) * args.shape.query_width(), c));
    }
    chunks.push_back(Reduced(rows, args.shape.query));
  }
  return chunks.empty() ? kNoScore : args.shape.scale * Reduced(chunks, args.shape.chunk);
}

}  // namespace

void ReferenceScoreParts(const ScoreArgs& args) {
  MSA_CHECK(args.shape.head != Reduce::kLast && args.shape.chunk != Reduce::kLast);
  const int64_t num_parts = args.segment.num_parts();
  for (int question = 0; question + 1 < static_cast<int>(args.query_begin.size()); ++question) {
    for (int64_t part = 0; part < num_parts; ++part) {
      args.scores[question * num_parts + part] =
          static_cast<float>(PartScore(args, question, part));
    }
  }
}

}  // namespace msa::kernels
