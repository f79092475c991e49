// A ScoreArgs made ready for the fused pass, and the reduction of chunk values to part scores.
// Plain code, compiled once; the vector code is in routing.cc.
#ifndef MSA_KERNELS_CPU_ROUTING_PLAN_H_
#define MSA_KERNELS_CPU_ROUTING_PLAN_H_

#include <cstdint>
#include <utility>

#include "common/dtype.h"
#include "common/routing.h"
#include "kernels/types.h"

namespace msa::kernels {

// Borrows the arguments, and scratch memory of the thread that made it, until that thread makes
// the next plan.
struct RoutingPlan {
  const void* keys;     // [num_chunks, key_width]
  const float* scales;  // [num_chunks] or null
  DType dtype;
  int64_t num_parts;
  const int64_t* part_begin;  // [num_parts + 1]

  // Rows to score. Where the query reduction commutes with the dot product (head mean with query
  // mean or last) each question has been folded into one row.
  const float* queries;  // [num_rows, query_width]
  int64_t num_rows;
  const int32_t* row_question;  // [num_rows]
  const int32_t* query_begin;   // [num_questions + 1]
  int num_questions;

  // Chunks whose per-question values are kept before they are reduced over parts.
  int64_t block_chunks;
  int64_t key_width;
  int64_t query_width;
  int num_q_heads;
  int group;  // query heads a KV head
  int64_t head_dim;
  bool head_max;
  Reduce query_reduce;
  Reduce chunk_reduce;
  float scale;
  float* scores;  // [num_questions, num_parts]

  // The parts whose first chunk is one of [begin, end) counted from the segment's first; parts
  // without chunks go with the range they lie in, trailing ones with the last range.
  std::pair<int64_t, int64_t> PartsOfChunks(int64_t begin, int64_t end, int64_t num_chunks) const;
};

RoutingPlan MakeRoutingPlan(const ScoreArgs& args);

// Reduces chunk values of consecutive chunks to the scores of the parts that own them.
class PartReducer {
 public:
  PartReducer(const RoutingPlan& plan, int64_t part_begin, int64_t part_end);
  // values [num_questions, stride]: chunks begin … end-1; calls come in the order of chunks.
  void Take(int64_t begin, int64_t end, const float* values, int64_t stride);
  // Applies the mean over chunks and the scale.
  void Finish();

 private:
  void TakePart(int64_t part, int64_t begin, int64_t end, int64_t first_chunk, const float* values,
                int64_t stride);

  const RoutingPlan& plan_;
  const int64_t part_begin_;
  const int64_t part_end_;
  int64_t part_;       // the part that owns the next chunk
  double* mean_sums_;  // [num_questions], of the part in progress
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_ROUTING_PLAN_H_
