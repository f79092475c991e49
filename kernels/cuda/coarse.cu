#include <algorithm>

#include "kernels/cuda/coarse.h"
#include "kernels/cuda/routing_columns.h"
#include "kernels/cuda/routing_pass.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxQuestions = 64;  // of one rescoring launch
constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Exact questions are packed in groups of kMaxTiles column tiles, each with its scaling before it.
struct RescoreArgs {
  const RoutingSegment* segments = nullptr;
  int num_segments = 0;
  int row_bytes = 0;
  const char* packed = nullptr;
  size_t group_bytes = 0;
  float scale = 1.0f;
  const int32_t* columns = nullptr;  // [num_questions, num_candidates]: parts, -1 for none
  int num_candidates = 0;
  float* scores = nullptr;                // [num_questions, num_candidates], holding kNoScore
  int32_t first_tile[kMaxQuestions + 1];  // of each question
};

// The segment that holds a column of the scores; all lanes agree.
__device__ int SegmentOf(const RescoreArgs& args, int32_t column) {
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int first = 0; first < args.num_segments; first += 32) {
    const bool mine =
        first + lane < args.num_segments && args.segments[first + lane].first_part <= column;
    const int count = __popc(__ballot_sync(~0u, mine));
    before += count;
    if (count < 32) break;
  }
  return before - 1;
}

__device__ uint32_t LoadWord(const char* row, int offset, int row_bytes) {
  return offset < row_bytes ? *reinterpret_cast<const uint32_t*>(row + offset) : 0;
}

// Rows lane / 4 (low) and lane / 4 + 8 (high) of 16 keys against a column tile: the sums of the
// pass, in its order.
template <KeyFormat kFormat, int kPieces>
__device__ void ScoreTile(const char* low_row, const char* high_row, int row_bytes,
                          const char* packed, const ColumnScaling& scaling, int column, float& low,
                          float& high) {
  using Sums = Products<PassShape<kFormat, kPieces, 1, 256>>;
  constexpr int kStep = kMaxTiles * PackedStepBytes(kFormat, kPieces);
  const int word = threadIdx.x % 4 * 4;
  Sums sums;
  sums.Clear();
#pragma unroll 8
  for (int offset = 0; offset < row_bytes; offset += 32) {
    const uint32_t a[1][4] = {{LoadWord(low_row, offset + word, row_bytes),
                               LoadWord(high_row, offset + word, row_bytes),
                               LoadWord(low_row, offset + word + 16, row_bytes),
                               LoadWord(high_row, offset + word + 16, row_bytes)}};
    sums.AddFragment(a, packed + offset / 32 * Sums::kStepsOfFragment * kStep, kStep);
  }
  sums.Best(0, 0, scaling, column, low, high);
}

// Float32 keys, a lane a row: the sums of FloatProducts for columns 0 … 3 (lanes below 16) and
// 4 … 7, one after the other.
__device__ float ScoreFloatRow(const char* row, int row_bytes, const char* packed) {
  constexpr int kStep = kMaxTiles * PackedStepBytes(KeyFormat::kFloat32, 1);
  const float4* key = reinterpret_cast<const float4*>(row);
  float best = kNoScore;
  for (int c = threadIdx.x % 32 / 16 * 4; c < threadIdx.x % 32 / 16 * 4 + 4; ++c) {
    float sum = 0;
    for (int begin = 0; begin < row_bytes / 16; begin += 8) {
      float part = 0;
      for (int i = begin; i < min(begin + 8, row_bytes / 16); ++i) {
        const float4 a = key[i];
        const float4 b = reinterpret_cast<const float4*>(packed + i * kStep)[c];
        part = fmaf(a.x, b.x, part);
        part = fmaf(a.y, b.y, part);
        part = fmaf(a.z, b.z, part);
        part = fmaf(a.w, b.w, part);
      }
      sum += part;
    }
    best = MaxOrNan(best, sum);
  }
  return MaxOrNan(best, __shfl_xor_sync(~0u, best, 16));
}

// One warp a candidate and column tile of its question (blockIdx.z); the maximum over both tiles
// and chunks is the atomic one.
template <KeyFormat kFormat, int kPieces>
__global__ void __launch_bounds__(kThreads)
    RescoreKernel(const __grid_constant__ RescoreArgs args) {
  const int lane = threadIdx.x % 32;
  const int question = blockIdx.y;
  const int candidate = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const int tile = args.first_tile[question] + static_cast<int>(blockIdx.z);
  if (candidate >= args.num_candidates || tile >= args.first_tile[question + 1]) return;
  const int32_t column = args.columns[question * args.num_candidates + candidate];
  if (column < 0) return;
  const RoutingSegment& segment = args.segments[SegmentOf(args, column)];
  const int64_t part = column - segment.first_part;
  const int64_t begin = segment.part_begin[part];
  const int64_t end = segment.part_begin[part + 1];
  const char* keys = static_cast<const char*>(segment.keys);
  const char* group = args.packed + tile / kMaxTiles * args.group_bytes;
  const ColumnScaling& scaling = *reinterpret_cast<const ColumnScaling*>(group);
  const char* packed =
      group + sizeof(ColumnScaling) + tile % kMaxTiles * PackedStepBytes(kFormat, kPieces);
  constexpr bool kFloats = kFormat == KeyFormat::kFloat32;
  const int row = kFloats ? lane % 16 : lane / 4;
  float best = kNoScore;
  const auto take = [&](int64_t chunk, float value) {
    if (chunk >= end) return;
    const float chunk_scale = segment.scales == nullptr ? 1.0f : segment.scales[chunk];
    best = MaxOrNan(best, value * chunk_scale * args.scale);
  };
  for (int64_t chunk = begin; chunk < end; chunk += 16) {
    const auto key = [&](int64_t at) { return keys + min(at, end - 1) * args.row_bytes; };
    if constexpr (kFloats) {
      take(chunk + row, ScoreFloatRow(key(chunk + row), args.row_bytes, packed));
    } else {
      float low;
      float high;
      ScoreTile<kFormat, kPieces>(key(chunk + row), key(chunk + row + 8), args.row_bytes, packed,
                                  scaling, tile % kMaxTiles * kColumnsOfTile, low, high);
      take(chunk + row, low);
      take(chunk + row + 8, high);
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    best = MaxOrNan(best, __shfl_xor_sync(~0u, best, step));
  }
  if (lane == 0 && begin < end) {
    AtomicMaxOrNan(args.scores + question * args.num_candidates + candidate, best);
  }
}

template <KeyFormat kFormat, bool kSplit>
cudaError_t LaunchRescore(const RescoreArgs& args, int num_questions, int max_tiles,
                          cudaStream_t stream) {
  constexpr int kPieces =
      QueryPieces(kFormat, kSplit ? QueryPrecision::kSplit : QueryPrecision::kSingle);
  const dim3 grid((args.num_candidates + kThreads / 32 - 1) / (kThreads / 32), num_questions,
                  max_tiles);
  RescoreKernel<kFormat, kPieces><<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t DispatchRescore(KeyFormat format, bool split, const RescoreArgs& args,
                            int num_questions, int max_tiles, cudaStream_t stream) {
  const auto launch = [&](auto rescore_split, auto rescore_single) {
    return (split ? rescore_split : rescore_single)(args, num_questions, max_tiles, stream);
  };
  switch (format) {
    case KeyFormat::kFloat32:
      return launch(LaunchRescore<KeyFormat::kFloat32, true>,
                    LaunchRescore<KeyFormat::kFloat32, false>);
    case KeyFormat::kBFloat16:
      return launch(LaunchRescore<KeyFormat::kBFloat16, true>,
                    LaunchRescore<KeyFormat::kBFloat16, false>);
    case KeyFormat::kInt8:
      return launch(LaunchRescore<KeyFormat::kInt8, true>, LaunchRescore<KeyFormat::kInt8, false>);
    case KeyFormat::kFloat8:
      return launch(LaunchRescore<KeyFormat::kFloat8, true>,
                    LaunchRescore<KeyFormat::kFloat8, false>);
    case KeyFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

int NumTiles(const RoutingArgs& args) {
  int count = 0;
  for (ColumnTiles tiles(args); !tiles.done(); ++count) tiles.Next();
  return count;
}

RoutingArgs CoarseScan(const CoarseArgs& args) {
  RoutingArgs coarse = args.scan;
  coarse.segments = args.codes;
  coarse.format = KeyFormat::kInt4;
  coarse.precision = QueryPrecision::kSingle;
  return coarse;
}

// Places in the workspace.
struct CoarseMemory {
  explicit CoarseMemory(const CoarseArgs& args) {
    const RoutingArgs coarse = CoarseScan(args);
    const size_t candidates =
        static_cast<size_t>(args.scan.num_questions) * static_cast<size_t>(args.num_candidates);
    const size_t scan_bytes = RoutingWorkspaceBytes(coarse);
    const size_t padded_width = (args.scan.shape.key_width() + 511) / 512 * 512;
    group_bytes =
        Aligned(sizeof(ColumnScaling) + padded_width * kMaxTiles * kColumnsOfTile * sizeof(float));
    const int groups = (NumTiles(args.scan) + kMaxTiles - 1) / kMaxTiles;
    const auto take = [&](size_t bytes) {
      const size_t at = total;
      total += Aligned(bytes);
      return at;
    };
    scan = take(scan_bytes);
    packed = take(group_bytes * groups);
    top_k = take(std::max(
        TopKWorkspaceBytes(args.scan.num_questions, args.scan.num_parts, args.num_candidates),
        TopKWorkspaceBytes(args.scan.num_questions, args.num_candidates, args.k)));
    scores = take(candidates * sizeof(float));
    exact = take(candidates * sizeof(float));
    references = take(candidates * sizeof(int64_t));
    columns = take(candidates * sizeof(int32_t));
  }

  size_t group_bytes = 0;
  size_t scan = 0;
  size_t packed = 0;
  size_t top_k = 0;
  size_t scores = 0;
  size_t exact = 0;
  size_t references = 0;
  size_t columns = 0;
  size_t total = 0;
};

// Packs the questions for the exact products and fills the exact scores with kNoScore.
cudaError_t PackQuestions(const CoarseArgs& args, const CoarseMemory& at, char* memory,
                          cudaStream_t stream) {
  const RoutingArgs& scan = args.scan;
  PrepareArgs prepare;
  prepare.queries = scan.queries;
  prepare.width = scan.shape.key_width();
  prepare.padded_width = PassPaddedWidth(scan.format, prepare.width);
  prepare.format = scan.format;
  prepare.pieces = QueryPieces(scan.format, scan.precision);
  prepare.mean_rows = scan.shape.query == Reduce::kMean;
  prepare.tile_capacity = kMaxTiles;
  prepare.fill = reinterpret_cast<float*>(memory + at.exact);
  prepare.fill_count = static_cast<int64_t>(scan.num_questions) * args.num_candidates;
  char* group = memory + at.packed;
  for (ColumnTiles tiles(scan); !tiles.done(); group += at.group_bytes) {
    prepare.num_tiles = 0;
    while (prepare.num_tiles < kMaxTiles && !tiles.done()) {
      prepare.tiles[prepare.num_tiles++] = tiles.Next();
    }
    prepare.scaling = reinterpret_cast<ColumnScaling*>(group);
    prepare.packed = group + sizeof(ColumnScaling);
    const cudaError_t error = LaunchPrepare(prepare, stream);
    if (error != cudaSuccess) return error;
    prepare.fill = nullptr;
    prepare.fill_count = 0;
  }
  return cudaSuccess;
}

cudaError_t Rescore(const CoarseArgs& args, const CoarseMemory& at, char* memory,
                    cudaStream_t stream) {
  const RoutingArgs& scan = args.scan;
  RescoreArgs rescore;
  rescore.segments = scan.segments;
  rescore.num_segments = scan.num_segments;
  rescore.row_bytes = KeyBytes(scan.format, scan.shape.key_width());
  rescore.packed = memory + at.packed;
  rescore.group_bytes = at.group_bytes;
  rescore.scale = scan.shape.scale;
  rescore.num_candidates = args.num_candidates;
  ColumnTiles tiles(scan);
  int tile = 0;
  for (int first = 0; first < scan.num_questions; first += kMaxQuestions) {
    const int count = std::min(kMaxQuestions, scan.num_questions - first);
    int max_tiles = 0;
    for (int i = 0; i < count; ++i) {
      rescore.first_tile[i] = tile;
      for (; !tiles.done() && tiles.question() == first + i; ++tile) tiles.Next();
      rescore.first_tile[i + 1] = tile;
      max_tiles = std::max(max_tiles, tile - rescore.first_tile[i]);
    }
    const size_t candidates = static_cast<size_t>(first) * args.num_candidates;
    rescore.columns = reinterpret_cast<const int32_t*>(memory + at.columns) + candidates;
    rescore.scores = reinterpret_cast<float*>(memory + at.exact) + candidates;
    const cudaError_t error = DispatchRescore(scan.format, scan.precision == QueryPrecision::kSplit,
                                              rescore, count, max_tiles, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

bool ValidArgs(const CoarseArgs& args) {
  const RoutingShape& shape = args.scan.shape;
  return shape.folded() && shape.chunk == Reduce::kMax && shape.scale >= 0 &&
         shape.key_width() % kInt4Group == 0 && shape.key_width() <= kMaxKeyWidth &&
         args.scan.precision != QueryPrecision::kThroughput &&
         args.scan.format != KeyFormat::kInt4 && args.scan.num_questions > 0 && args.k >= 1 &&
         args.k <= args.num_candidates && args.num_candidates <= kMaxTopK;
}

}  // namespace

size_t CoarseWorkspaceBytes(const CoarseArgs& args) {
  return ValidArgs(args) ? CoarseMemory(args).total : kAlignment;
}

cudaError_t SelectTopKCoarse(const CoarseArgs& args, void* workspace, cudaStream_t stream) {
  if (!ValidArgs(args)) return cudaErrorInvalidValue;
  char* memory = static_cast<char*>(workspace);
  const CoarseMemory at(args);
  cudaError_t error = PackQuestions(args, at, memory, stream);
  if (error == cudaSuccess) error = ScoreParts(CoarseScan(args), memory + at.scan, stream);

  TopKArgs best;
  best.scores = args.scan.scores;
  best.references = args.references;
  best.visible = args.visible;
  best.num_questions = args.scan.num_questions;
  best.num_candidates = args.scan.num_parts;
  best.stride = args.scan.num_parts;
  best.k = args.num_candidates;
  best.sorted = false;
  best.best_scores = reinterpret_cast<float*>(memory + at.scores);
  best.best_references = reinterpret_cast<int64_t*>(memory + at.references);
  best.best_indices = reinterpret_cast<int32_t*>(memory + at.columns);
  if (error == cudaSuccess) error = SelectTopK(best, memory + at.top_k, stream);
  if (error == cudaSuccess) error = Rescore(args, at, memory, stream);

  TopKArgs final = best;
  final.scores = reinterpret_cast<float*>(memory + at.exact);
  final.references = best.best_references;
  final.indices = best.best_indices;
  final.reference_stride = args.num_candidates;
  final.visible = nullptr;
  final.num_candidates = args.num_candidates;
  final.stride = args.num_candidates;
  final.k = args.k;
  final.sorted = true;
  final.best_scores = args.best_scores;
  final.best_references = args.best_references;
  final.best_indices = args.best_indices;
  final.best_counts = args.best_counts;
  if (error == cudaSuccess) error = SelectTopK(final, memory + at.top_k, stream);
  return error;
}

}  // namespace msa::kernels::cuda
