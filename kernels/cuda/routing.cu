#include <algorithm>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t PackedCapacityBytes(int key_width) {
  // The most a pass packs: 64 columns in one piece of 16 bits or two of 8, 32 in three of 8 or one
  // of 32.
  const int padded = (key_width + 255) / 256 * 256;
  return static_cast<size_t>(padded) * kMaxTiles * kColumnsOfTile * 4;
}

bool ValidArgs(const RoutingArgs& args) {
  const RoutingShape& shape = args.shape;
  return shape.head_dim > 0 && shape.num_kv_heads > 0 && shape.num_q_heads > 0 &&
         shape.num_q_heads % shape.num_kv_heads == 0 && shape.head != Reduce::kLast &&
         shape.chunk != Reduce::kLast && args.num_questions > 0 && args.num_segments >= 0;
}

bool HasFastPath(const RoutingArgs& args) {
  const int width = args.shape.key_width();
  return args.shape.folded() && args.shape.chunk == Reduce::kMax && width % 16 == 0 &&
         width <= kMaxKeyWidth && args.shape.scale >= 0;
}

// The column tiles of a list of questions, one after the other.
class ColumnTiles {
 public:
  explicit ColumnTiles(const RoutingArgs& args) : args_(args) { StartQuestion(); }

  bool done() const { return question_ == args_.num_questions; }

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

struct PassPlan {
  PrepareArgs prepare;
  PassArgs pass;
};

PassPlan PlanOfAllPasses(const RoutingArgs& args, void* workspace) {
  PassPlan plan;
  char* memory = static_cast<char*>(workspace);
  PrepareArgs& prepare = plan.prepare;
  prepare.queries = args.queries;
  prepare.width = args.shape.key_width();
  prepare.padded_width = PassPaddedWidth(args.format, prepare.width);
  prepare.format = args.format;
  prepare.pieces = QueryPieces(args.format, args.precision);
  prepare.mean_rows = args.shape.query == Reduce::kMean;
  prepare.column_scales = reinterpret_cast<float*>(memory);
  prepare.packed = memory + kMaxTiles * kColumnsOfTile * sizeof(float);
  prepare.fill = args.scores;
  prepare.fill_count = args.num_questions * args.num_parts;
  PassArgs& pass = plan.pass;
  pass.segments = args.segments;
  pass.num_segments = args.num_segments;
  pass.num_chunks = args.num_chunks;
  pass.packed = prepare.packed;
  pass.column_scales = prepare.column_scales;
  pass.scale = args.shape.scale;
  pass.scores = args.scores;
  pass.score_stride = args.num_parts;
  return plan;
}

cudaError_t ScoreByPasses(const RoutingArgs& args, void* workspace, cudaStream_t stream) {
  PassPlan plan = PlanOfAllPasses(args, workspace);
  const int width = plan.prepare.width;
  const int pieces = plan.prepare.pieces;
  for (ColumnTiles tiles(args); !tiles.done();) {
    const int capacity = PassCapacity(args.format, pieces, width, tiles.Left());
    if (capacity == 0) return ScorePartsGeneral(args, stream);
    int count = 0;
    for (; count < capacity && !tiles.done(); ++count) {
      plan.prepare.tiles[count] = tiles.Next();
      plan.pass.question[count] = plan.prepare.tiles[count].question;
    }
    plan.prepare.num_tiles = count;
    plan.prepare.tile_capacity = capacity;
    plan.pass.num_tiles = count;
    cudaError_t error = LaunchPrepare(plan.prepare, stream);
    if (error == cudaSuccess && args.num_chunks > 0) {
      error = LaunchPass(args.format, pieces, capacity, width, plan.pass, stream);
    }
    if (error != cudaSuccess) return error;
    plan.prepare.fill = nullptr;
    plan.prepare.fill_count = 0;
  }
  return cudaSuccess;
}

}  // namespace

int64_t NumberChunks(RoutingSegment* host_segments, int num_segments) {
  int64_t total = 0;
  for (int i = 0; i < num_segments; ++i) {
    host_segments[i].first_chunk = total;
    total += host_segments[i].num_chunks;
  }
  return total;
}

size_t RoutingWorkspaceBytes(int key_width) {
  const size_t scales = kMaxTiles * kColumnsOfTile * sizeof(float);
  const size_t bytes = scales + PackedCapacityBytes(key_width);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

cudaError_t ScoreParts(const RoutingArgs& args, void* workspace, cudaStream_t stream) {
  if (!ValidArgs(args)) return cudaErrorInvalidValue;
  if (args.num_parts == 0) return cudaSuccess;
  return HasFastPath(args) ? ScoreByPasses(args, workspace, stream)
                           : ScorePartsGeneral(args, stream);
}

}  // namespace msa::kernels::cuda
