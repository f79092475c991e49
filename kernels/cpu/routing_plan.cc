#include "kernels/cpu/routing_plan.h"

#include <algorithm>

#include "common/check.h"
#include "kernels/cpu/scratch.h"

namespace msa::kernels {
namespace {

// One row a question: its last row, or the mean of its rows.
const float* FoldRows(const ScoreArgs& args, int num_questions, int64_t width) {
  thread_local Scratch<float> scratch;
  float* folded = scratch.Get(num_questions * width);
  for (int question = 0; question < num_questions; ++question) {
    const int32_t end = args.query_begin[question + 1];
    const int32_t begin = args.shape.query == Reduce::kLast ? end - 1 : args.query_begin[question];
    for (int64_t i = 0; i < width; ++i) {
      double sum = 0;
      for (int32_t row = begin; row < end; ++row) sum += args.queries[row * width + i];
      folded[question * width + i] = static_cast<float>(sum / (end - begin));
    }
  }
  return folded;
}

// row_question of rows that are as given, or (`one_each`) one a question.
const int32_t* MapRows(const ScoreArgs& args, int num_questions, bool one_each) {
  thread_local Scratch<int32_t> scratch;
  int32_t* map = scratch.Get(std::max<size_t>(args.query_begin.back(), num_questions) + 1);
  for (int question = 0; question < num_questions; ++question) {
    const int32_t begin = one_each ? question : args.query_begin[question];
    const int32_t end = one_each ? question + 1 : args.query_begin[question + 1];
    std::fill(map + begin, map + end, question);
  }
  return map;
}

// A pass of one row waits for memory: its 8 streams should be 32 KB long or more, so that few of
// their lines are first ones, which nothing has fetched ahead. A multiple of 8: tiles are whole.
int64_t BlockChunks(int64_t num_rows, int64_t key_bytes) {
  if (num_rows > 1) return 256;
  return std::clamp<int64_t>(8 * (32768 / key_bytes), 256, 2048);
}

// MaxOrNan of the reference over `first` and values, without a branch: a comparison with the best
// so far is a toss for the first few, and would be guessed wrongly in every part.
float MaxOrNanOf(float first, const float* values, int64_t n) {
  float best = first;
  float nan = first;  // NaN as soon as one was seen, else whatever
  for (int64_t i = 0; i < n; ++i) {
    best = values[i] > best ? values[i] : best;
    nan = values[i] != values[i] ? values[i] : nan;
  }
  return nan != nan ? nan : best;
}

}  // namespace

RoutingPlan MakeRoutingPlan(const ScoreArgs& args) {
  const RoutingShape& shape = args.shape;
  MSA_CHECK(shape.head != Reduce::kLast && shape.chunk != Reduce::kLast);
  const int num_questions = static_cast<int>(args.query_begin.size()) - 1;
  const bool fold_rows = shape.folded() && shape.query != Reduce::kMax;
  RoutingPlan plan;
  plan.keys = args.segment.keys;
  plan.scales = HasScales(args.segment.dtype) ? args.segment.scales : nullptr;
  plan.dtype = args.segment.dtype;
  plan.num_parts = args.segment.num_parts();
  plan.part_begin = args.segment.part_begin.data();
  plan.queries = fold_rows ? FoldRows(args, num_questions, shape.query_width()) : args.queries;
  plan.num_rows = fold_rows ? num_questions : args.query_begin.back();
  plan.row_question = MapRows(args, num_questions, fold_rows);
  plan.query_begin = args.query_begin.data();
  plan.num_questions = num_questions;
  plan.key_width = shape.key_width();
  plan.block_chunks = BlockChunks(
      plan.num_rows, shape.key_width() * static_cast<int64_t>(DTypeBytes(args.segment.dtype)));
  plan.query_width = shape.query_width();
  plan.num_q_heads = shape.num_q_heads;
  plan.group = shape.num_q_heads / shape.num_kv_heads;
  plan.head_dim = shape.head_dim;
  plan.head_max = !shape.folded();
  plan.query_reduce = shape.query;
  plan.chunk_reduce = shape.chunk;
  plan.scale = shape.scale;
  plan.scores = args.scores;
  return plan;
}

std::pair<int64_t, int64_t> RoutingPlan::PartsOfChunks(int64_t begin, int64_t end,
                                                       int64_t num_chunks) const {
  const int64_t* parts_end = part_begin + num_parts;
  const int64_t first = std::lower_bound(part_begin, parts_end, part_begin[0] + begin) - part_begin;
  if (end >= num_chunks) return {first, num_parts};
  return {first, std::lower_bound(part_begin, parts_end, part_begin[0] + end) - part_begin};
}

PartReducer::PartReducer(const RoutingPlan& plan, int64_t part_begin, int64_t part_end)
    : plan_(plan), part_begin_(part_begin), part_end_(part_end), part_(part_begin) {
  thread_local Scratch<double> scratch;
  mean_sums_ = scratch.Get(plan.num_questions);
  std::fill_n(mean_sums_, plan.num_questions, 0.0);
  for (int question = 0; question < plan.num_questions; ++question) {
    float* scores = plan.scores + question * plan.num_parts;
    std::fill(scores + part_begin, scores + part_end, kNoScore);
  }
}

void PartReducer::Take(int64_t begin, int64_t end, const float* values, int64_t stride) {
  int64_t at = begin;
  while (at < end) {
    while (plan_.part_begin[part_ + 1] <= at) ++part_;
    const int64_t part_stop = std::min(plan_.part_begin[part_ + 1], end);
    TakePart(part_, at, part_stop, begin, values, stride);
    at = part_stop;
  }
}

void PartReducer::TakePart(int64_t part, int64_t begin, int64_t end, int64_t first_chunk,
                           const float* values, int64_t stride) {
  const int64_t part_chunks = plan_.part_begin[part + 1] - plan_.part_begin[part];
  const bool completes = end == plan_.part_begin[part + 1];
  for (int question = 0; question < plan_.num_questions; ++question) {
    const float* chunk_values = values + question * stride - first_chunk;
    float& score = plan_.scores[question * plan_.num_parts + part];
    if (plan_.chunk_reduce == Reduce::kMax) {
      score = MaxOrNanOf(score, chunk_values + begin, end - begin);
      continue;
    }
    for (int64_t c = begin; c < end; ++c) mean_sums_[question] += chunk_values[c];
    if (!completes) continue;
    score = static_cast<float>(mean_sums_[question] / static_cast<double>(part_chunks));
    mean_sums_[question] = 0;
  }
}

void PartReducer::Finish() {
  for (int question = 0; question < plan_.num_questions; ++question) {
    float* scores = plan_.scores + question * plan_.num_parts;
    for (int64_t part = part_begin_; part < part_end_; ++part) {
      if (plan_.part_begin[part] < plan_.part_begin[part + 1]) scores[part] *= plan_.scale;
    }
  }
}

}  // namespace msa::kernels
