#include <algorithm>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/routing_columns.h"
#include "kernels/cuda/routing_pass.h"
#include "kernels/cuda/routing_wide.h"

namespace msa::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;

// The most a pass packs: 64 columns of 16 bits an element, or 32 of 24 or 32.
size_t PackedCapacityBytes(int key_width) {
  const int padded = (key_width + 511) / 512 * 512;  // of kInt4, the most
  return static_cast<size_t>(padded) * kMaxTiles * kColumnsOfTile * 2;
}

bool ValidArgs(const RoutingArgs& args) {
  const RoutingShape& shape = args.shape;
  return shape.head_dim > 0 && shape.num_kv_heads > 0 && shape.num_q_heads > 0 &&
         shape.num_q_heads % shape.num_kv_heads == 0 && shape.head != Reduce::kLast &&
         shape.chunk != Reduce::kLast && args.num_questions > 0 && args.num_segments >= 0;
}

// Keys of 8 bits and more than one tile have the memory-bound pass's bits by warpgroups too, in
// less time and in one read for more rows: sums of int8 products are exact, those of fp16 halves
// add the same 16 elements at a time in the same order.
bool WantsWidePass(const RoutingArgs& args) {
  const bool of_8_bits = args.format == KeyFormat::kInt8 || args.format == KeyFormat::kFloat8;
  const bool wanted =
      args.precision == QueryPrecision::kThroughput ||
      args.precision == QueryPrecision::kOnePiece ||
      (args.precision == QueryPrecision::kSplit && of_8_bits && ColumnTiles(args).Left() > 1);
  return wanted && args.shape.query != Reduce::kMean && HasWidePass(args.format);
}

// With the precision that it takes.
RoutingArgs Taken(const RoutingArgs& args) {
  RoutingArgs taken = args;
  const bool none = args.precision == QueryPrecision::kOnePiece && !TakesOnePiece(args);
  if (none) taken.precision = QueryPrecision::kThroughput;
  return taken;
}

cudaError_t ScoreByWidePasses(const RoutingArgs& args, void* workspace, cudaStream_t stream) {
  WideArgs wide;
  wide.segments = args.segments;
  wide.num_segments = args.num_segments;
  wide.num_chunks = args.num_chunks;
  wide.queries = args.queries;
  wide.width = args.shape.key_width();
  wide.format = args.format;
  wide.pieces = WidePieces(args.format, args.precision);
  wide.scale = args.shape.scale;
  wide.scores = args.scores;
  wide.score_stride = args.num_parts;
  wide.fill = args.scores;
  wide.fill_count = args.num_questions * args.num_parts;
  for (ColumnTiles tiles(args); !tiles.done();) {
    wide.num_tiles = 0;
    const int most = kMaxBlocks * WideBlockRowTiles(wide.pieces);
    while (wide.num_tiles < most && !tiles.done()) {
      wide.tiles[wide.num_tiles++] = tiles.Next();
    }
    const cudaError_t error = LaunchWide(wide, workspace, stream);
    if (error != cudaSuccess) return error;
    wide.fill = nullptr;
    wide.fill_count = 0;
  }
  return cudaSuccess;
}

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
  prepare.scaling = reinterpret_cast<ColumnScaling*>(memory);
  prepare.packed = memory + sizeof(ColumnScaling);
  prepare.fill = args.scores;
  prepare.fill_count = args.num_questions * args.num_parts;
  PassArgs& pass = plan.pass;
  pass.segments = args.segments;
  pass.num_segments = args.num_segments;
  pass.num_chunks = args.num_chunks;
  pass.packed = prepare.packed;
  pass.scaling = prepare.scaling;
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

bool TakesOnePiece(const RoutingArgs& scan) {
  return scan.precision == QueryPrecision::kOnePiece && scan.format == KeyFormat::kInt8 &&
         WantsWidePass(scan);
}

bool HasFastPath(const RoutingArgs& args) {
  const int width = args.shape.key_width();
  return args.shape.folded() && args.shape.chunk == Reduce::kMax && width % 16 == 0 &&
         width <= kMaxKeyWidth && args.shape.scale >= 0 &&
         (args.format != KeyFormat::kInt4 || width % kInt4Group == 0);
}

int64_t NumColumnTiles(const RoutingArgs& args) {
  int64_t count = 0;
  for (ColumnTiles tiles(args); !tiles.done(); ++count) tiles.Next();
  return count;
}

int64_t NumberChunks(RoutingSegment* host_segments, int num_segments) {
  int64_t total = 0;
  for (int i = 0; i < num_segments; ++i) {
    host_segments[i].first_chunk = total;
    total += host_segments[i].num_chunks;
  }
  return total;
}

size_t RoutingWorkspaceBytes(const RoutingArgs& asked) {
  const RoutingArgs args = Taken(asked);
  if (!ValidArgs(args) || !HasFastPath(args)) return kAlignment;
  size_t bytes = sizeof(ColumnScaling) + PackedCapacityBytes(args.shape.key_width());
  if (WantsWidePass(args)) {
    int blocks = 0;
    for (ColumnTiles tiles(args); blocks < kMaxBlocks && !tiles.done(); ++blocks) {
      const int of_block = WideBlockRowTiles(WidePieces(args.format, args.precision));
      for (int i = 0; i < of_block && !tiles.done(); ++i) tiles.Next();
    }
    bytes = WidePackedBytes(args.format, args.shape.key_width(), blocks);
  }
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

cudaError_t ScoreParts(const RoutingArgs& asked, void* workspace, cudaStream_t stream) {
  const RoutingArgs args = Taken(asked);
  if (!ValidArgs(args)) return cudaErrorInvalidValue;
  if (args.num_parts == 0) return cudaSuccess;
  if (!HasFastPath(args)) return ScorePartsGeneral(args, stream);
  return WantsWidePass(args) ? ScoreByWidePasses(args, workspace, stream)
                             : ScoreByPasses(args, workspace, stream);
}

}  // namespace msa::kernels::cuda
