#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/routing_columns.h"
#include "kernels/cuda/routing_listed.h"
#include "kernels/cuda/routing_products.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kMinWarps = 4;  // of a block: keys come faster than by one
constexpr int kMaxWarps = 8;
constexpr int kMaxQuestions = 64;  // of one launch
constexpr int kRows = 16;          // keys that a product takes
// Of keys in shared memory; wide ones come fewer at a time.
constexpr int kMaxKeyBytes = 96 * 1024;
constexpr int kDefaultSharedBytes = 48 * 1024;
constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Exact questions are packed in groups of kMaxTiles column tiles, each with its scaling before it.
struct LaunchArgs {
  const RoutingSegment* segments = nullptr;
  int num_segments = 0;
  int row_bytes = 0;
  int rows_at_once = kRows;
  const char* packed = nullptr;
  size_t group_bytes = 0;
  float scale = 1.0f;
  const int32_t* columns = nullptr;  // [num_questions, num_listed]: parts, -1 for none
  int num_listed = 0;
  float* scores = nullptr;  // [num_questions, num_listed], holding kNoScore
  const float* error = nullptr;
  float* error_to = nullptr;
  int32_t first_tile[kMaxQuestions + 1];  // of each question
};

// The segment that holds a column of the scores; all lanes agree.
__device__ int SegmentOf(const LaunchArgs& args, int32_t column) {
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

// Bytes from key to key in shared memory: whole fragments, then one access width, so that the 8
// rows of a fragment lie in different banks.
__host__ __device__ int Pitch(int row_bytes) { return (row_bytes + 31) / 32 * 32 + 16; }

// Keys to shared memory, zeros behind each. All threads of the block.
__device__ void LoadKeys(const char* from, int rows, int row_bytes, char* keys) {
  const int units = (row_bytes + 31) / 32 * 2;
  const int pitch = Pitch(row_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += static_cast<int>(blockDim.x)) {
    const int row = i / units;
    const int offset = i % units * 16;
    const bool inside = offset < row_bytes;
    CopyAsync16(SharedAddress(keys + row * pitch + offset),
                from + static_cast<int64_t>(row) * row_bytes + (inside ? offset : 0),
                inside ? 16 : 0);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
}

// Rows lane / 4 (low) and lane / 4 + 8 (high) of the keys against a column tile: the sums of the
// pass, in its order. Rows from `rows` on repeat the last.
template <KeyFormat kFormat, int kPieces>
__device__ void ScoreTile(const char* keys, int rows, int row_bytes, const char* packed,
                          const ColumnScaling& scaling, int column, float& low, float& high) {
  using Sums = Products<PassShape<kFormat, kPieces, 1, 256>>;
  constexpr int kStep = kMaxTiles * PackedStepBytes(kFormat, kPieces);
  const int lane = threadIdx.x % 32;
  const uint32_t address =
      SharedAddress(keys + min(lane % 16, rows - 1) * Pitch(row_bytes) + lane / 16 * 16);
  Sums sums;
  sums.Clear();
#pragma unroll 8
  for (int offset = 0; offset < row_bytes; offset += 32) {
    uint32_t a[1][4];
    LoadMatrix4(a[0], address + offset);
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

// One block a listed part, whose keys it has in shared memory; a warp a column tile of its question
// (blockIdx.z: the tiles that the warps of a block do not reach). The maximum over tiles is the
// atomic one.
template <KeyFormat kFormat, int kPieces>
__global__ void __launch_bounds__(32 * kMaxWarps, 2)  // room for loads ahead
    ListedKernel(const __grid_constant__ LaunchArgs args) {
  extern __shared__ __align__(16) char keys[];  // [rows_at_once][Pitch]
  WaitForPrerequisites();
  if (args.error_to != nullptr && blockIdx.x + blockIdx.y + blockIdx.z + threadIdx.x == 0) {
    *args.error_to = args.error == nullptr ? 0 : *args.error;
  }
  const int lane = threadIdx.x % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int question = blockIdx.y;
  const int item = blockIdx.x;
  const int first_tile = args.first_tile[question] + static_cast<int>(blockIdx.z) * warps;
  if (first_tile >= args.first_tile[question + 1]) return;
  const int32_t column = args.columns[question * args.num_listed + item];
  if (column < 0) return;
  const RoutingSegment& segment = args.segments[SegmentOf(args, column)];
  const int64_t part = column - segment.first_part;
  const int64_t begin = segment.part_begin[part];
  const int64_t end = segment.part_begin[part + 1];
  const int tile = first_tile + static_cast<int>(threadIdx.x) / 32;
  const bool has_tile = tile < args.first_tile[question + 1];
  const char* group = args.packed + tile / kMaxTiles * args.group_bytes;
  const ColumnScaling& scaling = *reinterpret_cast<const ColumnScaling*>(group);
  const char* packed =
      group + sizeof(ColumnScaling) + tile % kMaxTiles * PackedStepBytes(kFormat, kPieces);
  constexpr bool kFloats = kFormat == KeyFormat::kFloat32;
  const int row = kFloats ? lane % 16 : lane / 4;
  float best = kNoScore;
  for (int64_t chunk = begin; chunk < end; chunk += args.rows_at_once) {
    const int rows = static_cast<int>(min(end - chunk, static_cast<int64_t>(args.rows_at_once)));
    if (chunk > begin) __syncthreads();  // the keys before are done with
    LoadKeys(static_cast<const char*>(segment.keys) + chunk * args.row_bytes, rows, args.row_bytes,
             keys);
    if (!has_tile) continue;
    const auto take = [&](int at, float value) {
      if (at >= rows) return;
      const float chunk_scale = segment.scales == nullptr ? 1.0f : segment.scales[chunk + at];
      best = MaxOrNan(best, value * chunk_scale * args.scale);
    };
    if constexpr (kFloats) {
      take(row, ScoreFloatRow(keys + min(row, rows - 1) * Pitch(args.row_bytes), args.row_bytes,
                              packed));
    } else {
      float low;
      float high;
      ScoreTile<kFormat, kPieces>(keys, rows, args.row_bytes, packed, scaling,
                                  tile % kMaxTiles * kColumnsOfTile, low, high);
      take(row, low);
      take(row + 8, high);
    }
  }
  if (!has_tile || begin >= end) return;
  for (int step = 16; step > 0; step /= 2) {
    best = MaxOrNan(best, __shfl_xor_sync(~0u, best, step));
  }
  if (lane == 0) AtomicMaxOrNan(args.scores + question * args.num_listed + item, best);
}

template <KeyFormat kFormat, bool kSplit>
cudaError_t Launch(const LaunchArgs& args, int num_questions, int max_tiles, cudaStream_t stream) {
  constexpr int kPieces =
      QueryPieces(kFormat, kSplit ? QueryPrecision::kSplit : QueryPrecision::kSingle);
  const int warps = std::clamp(max_tiles, kMinWarps, kMaxWarps);
  const dim3 grid(args.num_listed, num_questions, (max_tiles + warps - 1) / warps);
  const int shared_bytes = args.rows_at_once * Pitch(args.row_bytes);
  const auto kernel = ListedKernel<kFormat, kPieces>;
  if (shared_bytes > kDefaultSharedBytes) {
    // Always the same: another thread's launch may come in between.
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxKeyBytes);
    if (error != cudaSuccess) return error;
  }
  return LaunchDependentWith(shared_bytes, kernel, grid, 32 * warps, stream, args);
}

cudaError_t Dispatch(KeyFormat format, bool split, const LaunchArgs& args, int num_questions,
                     int max_tiles, cudaStream_t stream) {
  const auto launch = [&](auto launch_split, auto launch_single) {
    return (split ? launch_split : launch_single)(args, num_questions, max_tiles, stream);
  };
  switch (format) {
    case KeyFormat::kFloat32:
      return launch(Launch<KeyFormat::kFloat32, true>, Launch<KeyFormat::kFloat32, false>);
    case KeyFormat::kBFloat16:
      return launch(Launch<KeyFormat::kBFloat16, true>, Launch<KeyFormat::kBFloat16, false>);
    case KeyFormat::kInt8:
      return launch(Launch<KeyFormat::kInt8, true>, Launch<KeyFormat::kInt8, false>);
    case KeyFormat::kFloat8:
      return launch(Launch<KeyFormat::kFloat8, true>, Launch<KeyFormat::kFloat8, false>);
    case KeyFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

// Bytes of one group of kMaxTiles column tiles.
size_t GroupBytes(const RoutingArgs& scan) {
  const size_t padded_width = (scan.shape.key_width() + 511) / 512 * 512;
  return Aligned(sizeof(ColumnScaling) + padded_width * kMaxTiles * kColumnsOfTile * sizeof(float));
}

// Packs the questions for the exact products and fills the scores with kNoScore.
cudaError_t PackQuestions(const ListedArgs& args, char* group, cudaStream_t stream) {
  const RoutingArgs& scan = args.scan;
  PrepareArgs prepare;
  prepare.queries = scan.queries;
  prepare.width = scan.shape.key_width();
  prepare.padded_width = PassPaddedWidth(scan.format, prepare.width);
  prepare.format = scan.format;
  prepare.pieces = QueryPieces(scan.format, scan.precision);
  prepare.mean_rows = scan.shape.query == Reduce::kMean;
  prepare.tile_capacity = kMaxTiles;
  prepare.early = args.early;
  prepare.fill = args.scores;
  prepare.fill_count = static_cast<int64_t>(scan.num_questions) * args.num_listed;
  for (ColumnTiles tiles(scan); !tiles.done(); group += GroupBytes(scan)) {
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

}  // namespace

bool CanScoreListed(const RoutingArgs& scan) {
  const bool known =
      scan.precision == QueryPrecision::kSplit || scan.precision == QueryPrecision::kSingle;
  return HasFastPath(scan) && known && scan.format != KeyFormat::kInt4 &&
         PassCapacity(scan.format, QueryPieces(scan.format, scan.precision), scan.shape.key_width(),
                      1) > 0;
}

size_t ListedWorkspaceBytes(const RoutingArgs& scan) {
  return GroupBytes(scan) * ((NumColumnTiles(scan) + kMaxTiles - 1) / kMaxTiles);
}

cudaError_t ScoreListed(const ListedArgs& args, void* workspace, cudaStream_t stream) {
  const RoutingArgs& scan = args.scan;
  if (!CanScoreListed(scan)) return cudaErrorInvalidValue;
  if (args.num_listed == 0) return cudaSuccess;
  const cudaError_t packed = PackQuestions(args, static_cast<char*>(workspace), stream);
  if (packed != cudaSuccess) return packed;
  LaunchArgs launch;
  launch.segments = scan.segments;
  launch.num_segments = scan.num_segments;
  launch.row_bytes = KeyBytes(scan.format, scan.shape.key_width());
  while (launch.rows_at_once * Pitch(launch.row_bytes) > kMaxKeyBytes) launch.rows_at_once /= 2;
  launch.packed = static_cast<const char*>(workspace);
  launch.group_bytes = GroupBytes(scan);
  launch.scale = scan.shape.scale;
  launch.num_listed = args.num_listed;
  launch.error = args.error;
  launch.error_to = args.error_to;
  ColumnTiles tiles(scan);
  int tile = 0;
  for (int first = 0; first < scan.num_questions; first += kMaxQuestions) {
    const int count = std::min(kMaxQuestions, scan.num_questions - first);
    int max_tiles = 0;
    for (int i = 0; i < count; ++i) {
      launch.first_tile[i] = tile;
      for (; !tiles.done() && tiles.question() == first + i; ++tile) tiles.Next();
      launch.first_tile[i + 1] = tile;
      max_tiles = std::max(max_tiles, tile - launch.first_tile[i]);
    }
    const int64_t skipped = static_cast<int64_t>(first) * args.num_listed;
    launch.columns = args.columns + skipped;
    launch.scores = args.scores + skipped;
    const cudaError_t error = Dispatch(scan.format, scan.precision == QueryPrecision::kSplit,
                                       launch, count, max_tiles, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace msa::kernels::cuda
