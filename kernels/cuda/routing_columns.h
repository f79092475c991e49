// The rows of questions as column tiles. Internal to the routing launchers.
#ifndef MSA_KERNELS_CUDA_ROUTING_COLUMNS_H_
#define MSA_KERNELS_CUDA_ROUTING_COLUMNS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

// The column tiles of a list of questions, one after the other.
class ColumnTiles {
 public:
  explicit ColumnTiles(const RoutingArgs& args) : args_(args) { StartQuestion(); }

  bool done() const { return question_ == args_.num_questions; }
  int32_t question() const { return question_; }  // of the next tile

  ColumnTile Next() {
    const bool mean = args_.shape.query == Reduce::kMean;
    const int32_t end = args_.host_query_begin[question_ + 1];
    ColumnTile tile{row_, mean ? end - row_ : std::min(kColumnsOfTile, end - row_), question_};
    row_ += tile.count;
    if (row_ == end) {
      ++question_;
      StartQuestion();
    }
    return tile;
  }

  // Tiles left, at most kMaxTiles.
  int Left() const {
    ColumnTiles ahead = *this;
    int count = 0;
    for (; count < kMaxTiles && !ahead.done(); ++count) ahead.Next();
    return count;
  }

 private:
  void StartQuestion() {
    if (done()) return;
    row_ = args_.shape.query == Reduce::kLast ? args_.host_query_begin[question_ + 1] - 1
                                              : args_.host_query_begin[question_];
  }

  const RoutingArgs& args_;
  int32_t question_ = 0;
  int32_t row_ = 0;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_COLUMNS_H_
