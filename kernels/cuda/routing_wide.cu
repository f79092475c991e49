// Many rows: keys × blocks of 64 … 256 columns by warpgroup matrix products. Two blocks of a
// cluster take neighbouring tiles of 128 to 256 chunks, go through all blocks of columns together,
// and each reads one half of the columns for both. Warps of a block:
//
//   two or three warpgroups of consumers, 64 chunks × the columns each, or twice that
//   two      copy slices of the keys
//   one      copies slices of the columns to both blocks
//   the last maximum over a part's chunks, as in routing_pass.cuh
#include <algorithm>
#include <iterator>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_cursor.cuh"
#include "kernels/cuda/routing_wide.h"
#include "kernels/cuda/routing_wide_sums.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kCluster = 2;
constexpr int kMaxStages = 8;
constexpr int kMaxSharedBytes = 227 * 1024;
constexpr int kKeyThreads = 64;
// Where the sums and the widened keys are more than a thread's equal share of the registers.
constexpr int kConsumerRegisters = 224;
constexpr int kOtherRegisters = 56;

// Column tiles that a block of columns may have.
constexpr int kTileCounts[] = {8, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32};
static_assert(kTileCounts[std::size(kTileCounts) - 1] == kBlockTiles);

// Groups of 64 chunks that a warpgroup multiplies with a block's columns: two where their sums fit
// into its registers, for then the columns are read for twice as many keys.
__host__ __device__ constexpr int RowGroups(KeyFormat format, int tiles) {
  return format != KeyFormat::kFloat8 && tiles <= 16 ? 2 : 1;
}

// Warpgroups of consumers. One that widens fp8 keys reads, widens and multiplies them by turns; the
// others multiply meanwhile, as many as have room for their sums in the registers.
__host__ __device__ constexpr int ConsumerGroups(KeyFormat format, int tiles) {
  return format == KeyFormat::kFloat8 && tiles <= 16 ? 3 : 2;
}

template <KeyFormat kKeys, int kPieceCount, int kTileCount>
struct WideShared {
  static constexpr KeyFormat kFormat = kKeys;
  static constexpr int kPieces = kPieceCount;
  static constexpr int kTiles = kTileCount;
  static constexpr int kRowTiles = kTiles / kPieces;
  static constexpr int kColumns = kTiles * kColumnsOfTile;
  static constexpr int kRowGroups = RowGroups(kFormat, kTiles);
  static constexpr int kConsumerWarps = 4 * ConsumerGroups(kFormat, kTiles);
  static constexpr int kThreads = 32 * kConsumerWarps + 128;
  static constexpr int kRows = 16 * kConsumerWarps * kRowGroups;  // chunks of a block's tile
  static constexpr int kKeyStage = kRows * kWideSliceBytes;
  static constexpr int kColumnStage = kColumns * ColumnSliceBytes(kFormat);
  static constexpr int kFixedBytes = kRowTiles * kRows * 4 + kColumns * 4 + 2048;
  static constexpr int kStages =
      std::min(kMaxStages, (kMaxSharedBytes - kFixedBytes) / (kKeyStage + kColumnStage));

  alignas(1024) char keys[kStages][kKeyStage];
  char columns[kStages][kColumnStage];
  float values[kRowTiles][kRows];  // best of a question's run of tiles, at its last tile
  float column_scales[kColumns];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t values_full;
  uint64_t values_empty;
};
template <typename Shared>
constexpr int kSharedBytes = sizeof(Shared) + 1024;  // to align it

__device__ uint32_t ClusterRank() { return blockIdx.x % kCluster; }

// The cluster's tiles; its blocks take equal shares of them.
template <typename Shared>
__device__ TileCursor CursorOfCluster(const WideArgs& args) {
  return TileCursor(args.segments, args.num_segments, args.num_chunks, blockIdx.x / kCluster,
                    gridDim.x / kCluster, kCluster * Shared::kRows);
}

__device__ int OwnOffset(const TileCursor& tile) {
  return min(static_cast<int>(ClusterRank()) * ((tile.rows() + kCluster - 1) / kCluster),
             tile.rows());
}
__device__ int OwnRows(const TileCursor& tile) {
  return min(tile.rows() - OwnOffset(tile), (tile.rows() + kCluster - 1) / kCluster);
}

// 16 bytes a thread and copy, 8 rows each time. Two warps copy 18 bytes a cycle: there is time for
// a handful of instructions a copy, not for addresses made anew.
template <typename Shared>
__device__ void ProduceKeys(const WideArgs& args, Shared& shared) {
  constexpr int kRowsOfCopy = kKeyThreads / 8;
  constexpr int kCopies = Shared::kRows / kRowsOfCopy;
  static_assert(kRowsOfCopy == 8);  // the rows of a thread swizzle alike
  const int thread = threadIdx.x - 32 * Shared::kConsumerWarps;
  const int unit = thread % 8;
  const int first_row = thread / 8;
  const uint32_t stages =
      SharedAddress(shared.keys) + first_row * kWideSliceBytes + (unit ^ first_row) * 16;
  const int64_t step = static_cast<int64_t>(kRowsOfCopy) * args.row_bytes;
  StageCursor at;
  for (TileCursor tile = CursorOfCluster<Shared>(args); tile.Next();) {
    const char* keys = static_cast<const char*>(tile.segment().keys) +
                       (tile.row() + OwnOffset(tile) + first_row) * args.row_bytes;
    const int rows = OwnRows(tile) - first_row;
    for (int block = 0; block < args.num_blocks; ++block) {
      for (int offset = unit * 16; offset < args.num_slices * kWideSliceBytes;
           offset += kWideSliceBytes) {
        const uint32_t bytes = offset < args.row_bytes ? 16 : 0;
        const char* from = keys + (bytes != 0 ? offset : 0);
        const uint32_t to = stages + at.stage * Shared::kKeyStage;
        BarrierWait(SharedAddress(&shared.empty[at.stage]), at.phase ^ 1);
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
          if (i * kRowsOfCopy < rows) {
            CopyAsync16(to + i * kRowsOfCopy * kWideSliceBytes, from, bytes);
          }
          from += step;
        }
        BarrierArriveAfterCopies(SharedAddress(&shared.full[at.stage]));
        at.Advance(Shared::kStages);
      }
    }
  }
}

template <typename Shared>
__device__ void ProduceColumns(const WideArgs& args, Shared& shared) {
  constexpr uint32_t kColumnStage = Shared::kColumnStage;
  constexpr uint32_t kShare = kColumnStage / kCluster;
  constexpr uint16_t kAllBlocks = (1 << kCluster) - 1;
  WaitForPrerequisites();
  StageCursor at;
  TileCursor tile = CursorOfCluster<Shared>(args);
  if (threadIdx.x % 32 != 0) return;
  while (tile.Next()) {
    for (int step = 0; step < args.num_blocks * args.num_slices; ++step) {
      BarrierWait(SharedAddress(&shared.empty[at.stage]), at.phase ^ 1);
      const uint32_t full = SharedAddress(&shared.full[at.stage]);
      BarrierExpect(full, kColumnStage);
      CopyBulkToCluster(
          SharedAddress(shared.columns[at.stage]) + ClusterRank() * kShare,
          args.packed + static_cast<int64_t>(step) * kColumnStage + ClusterRank() * kShare, kShare,
          full, kAllBlocks);
      at.Advance(Shared::kStages);
    }
  }
}

template <typename Shared>
__device__ void ReleaseStage(Shared& shared, int stage) {
  __syncwarp();
  const uint32_t lane = threadIdx.x % 32;
  if (lane < kCluster) BarrierArriveAt(SharedAddress(&shared.empty[stage]), lane);
}

// Best of every question's run of tiles. `sums` as wgmma_wide.cuh says.
template <typename Shared>
__device__ void StoreBest(const Sum<Shared::kFormat> (&sums)[4 * Shared::kTiles], uint32_t run_ends,
                          int row, Shared& shared) {
  constexpr KeyFormat kFormat = Shared::kFormat;
  constexpr int kPieces = Shared::kPieces;
  const int lane = threadIdx.x % 32;
  float low = kNoScore;
  float high = kNoScore;
#pragma unroll
  for (int j = 0; j < Shared::kRowTiles; ++j) {
    float scale0 = 1;
    float scale1 = 1;
    if constexpr (kFormat != KeyFormat::kBFloat16) {
      const int column = kPieces * j * kColumnsOfTile + lane % 4 * 2;
      scale0 = shared.column_scales[column];
      scale1 = shared.column_scales[column + 1];
    }
    const auto best = [&](int i) {
      return MaxOrNan(Joined<kFormat, kPieces>(sums, j, i) * scale0,
                      Joined<kFormat, kPieces>(sums, j, i + 1) * scale1);
    };
    low = MaxOrNan(low, best(0));
    high = MaxOrNan(high, best(2));
    if ((run_ends >> j & 1) == 0) continue;
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 1));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 1));
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 2));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 2));
    if (lane % 4 == 0) {
      shared.values[j][row] = low;
      shared.values[j][row + 8] = high;
    }
    low = kNoScore;
    high = kNoScore;
  }
}

template <typename Shared>
__device__ void Consume(const WideArgs& args, Shared& shared) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr KeyFormat kFormat = Shared::kFormat;
  constexpr int kGroups = Shared::kRowGroups;
  const int warp = threadIdx.x / 32;
  const int first_row = warp / 4 * 64 * kGroups;  // of the warpgroup
  const int row = first_row + warp % 4 * 16 + threadIdx.x % 32 / 4;
  StageCursor at;
  uint32_t values_phase = 1;
  constexpr uint64_t kGroupStep = 64 * kWideSliceBytes / 16;  // of a descriptor
  Sum<kFormat> sums[kGroups][4 * Shared::kTiles];
  WaitForPrerequisites();
  for (TileCursor tile = CursorOfCluster<Shared>(args); tile.Next();) {
    for (int block = 0; block < args.num_blocks; ++block) {
      int last_stage = -1;
      for (int slice = 0; slice < args.num_slices; ++slice) {
        BarrierWait(SharedAddress(&shared.full[at.stage]), at.phase);
        const uint64_t b = RowsDescriptor(SharedAddress(shared.columns[at.stage]));
        if constexpr (kFormat == KeyFormat::kFloat8) {
          const uint32_t keys =
              SharedAddress(shared.keys[at.stage]) + (first_row + warp % 4 * 16) * kWideSliceBytes;
          MultiplyWidened<Shared::kTiles>(sums[0], keys, b, slice > 0);
          WaitForProducts<0>();  // their registers are needed again; other groups have the units
          ReleaseStage(shared, at.stage);
        } else {
          FenceForMatrixUnits();  // the keys came by ordinary copies
          const uint64_t a =
              RowsDescriptor(SharedAddress(shared.keys[at.stage]) + first_row * kWideSliceBytes);
          BeginProducts();
#pragma unroll
          for (int i = 0; i < kWideSliceBytes / 32; ++i) {
#pragma unroll
            for (int m = 0; m < kGroups; ++m) {
              Multiply<kFormat, Shared::kTiles>(sums[m], a + m * kGroupStep + 2 * i, b + 2 * i,
                                                slice + i > 0);
            }
          }
          CommitProducts();
          if (slice > 0) {
            WaitForProducts<1>();
            ReleaseStage(shared, last_stage);
          }
        }
        last_stage = at.stage;
        at.Advance(Shared::kStages);
      }
      if constexpr (kFormat != KeyFormat::kFloat8) {
        WaitForProducts<0>();
        ReleaseStage(shared, last_stage);
      }
      BarrierWait(SharedAddress(&shared.values_empty), values_phase);
      values_phase ^= 1;
      if constexpr (kFormat != KeyFormat::kBFloat16) {  // all of the warps have read the last ones
        const int thread = threadIdx.x;
        if (thread < Shared::kColumns) {
          shared.column_scales[thread] = args.column_scales[block * Shared::kColumns + thread];
        }
        NamedBarrier(1, 32 * Shared::kConsumerWarps);
      }
#pragma unroll
      for (int m = 0; m < kGroups; ++m) {
        StoreBest(sums[m], args.run_ends[block], row + m * 64, shared);
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&shared.values_full));
    }
  }
#endif
}

template <typename Shared>
__device__ void FinishBlock(const WideArgs& args, Shared& shared, int block, uint32_t run_ends,
                            int64_t column, int begin, int end) {
  for (uint32_t runs = run_ends; runs != 0; runs &= runs - 1) {
    const int j = __ffs(static_cast<int>(runs)) - 1;
    float best = kNoScore;
    for (int r = begin; r < end; ++r) best = MaxOrNan(best, shared.values[j][r]);
    const int64_t question = args.tiles[block * Shared::kRowTiles + j].question;
    AtomicMaxOrNan(args.scores + question * args.score_stride + column, best);
  }
}

// What it reads from device memory is asked for before the values are there: waiting for it would
// take as long as a tile's products. The warp goes through the parts of the whole cluster's tile,
// so that the next tile's are known.
template <typename Shared>
__device__ void Finish(const WideArgs& args, Shared& shared) {
  constexpr int kRowsOfLane = Shared::kRows / 32;
  const int lane = threadIdx.x % 32;
  WaitForPrerequisites();
  uint32_t phase = 0;
  int64_t part = 0;
  for (TileCursor tile = CursorOfCluster<Shared>(args); tile.Next();) {
    const RoutingSegment& segment = tile.segment();
    const int64_t first_row = tile.row() + OwnOffset(tile);
    const int rows = OwnRows(tile);
    float chunk_scales[kRowsOfLane];
#pragma unroll
    for (int i = 0; i < kRowsOfLane; ++i) {
      const int r = lane + 32 * i;
      const bool scaled = segment.scales != nullptr && r < rows;
      chunk_scales[i] = scaled ? segment.scales[first_row + r] : 1.0f;
    }
    if (tile.new_segment()) part = FindPart(segment, tile.row());
    const PartRange range = LoadPart(segment, part);
    int64_t next_part = part;
    for (int block = 0; block < args.num_blocks; ++block) {
      const uint32_t run_ends = args.run_ends[block];
      BarrierWait(SharedAddress(&shared.values_full), phase);
      phase ^= 1;
#pragma unroll
      for (int i = 0; i < kRowsOfLane; ++i) {
        const int r = lane + 32 * i;
        if (r >= rows) break;
        for (uint32_t runs = run_ends; runs != 0; runs &= runs - 1) {
          float& value = shared.values[__ffs(static_cast<int>(runs)) - 1][r];
          value = value * chunk_scales[i] * args.scale;
        }
      }
      __syncwarp();
      next_part = WalkParts(segment, part, range, first_row, rows, tile.row() + tile.rows(),
                            [&](int64_t column, int begin, int end) {
                              FinishBlock(args, shared, block, run_ends, column, begin, end);
                            });
      __syncwarp();
      if (lane == 0) BarrierArrive(SharedAddress(&shared.values_empty));
    }
    part = next_part;
  }
}

template <KeyFormat kFormat, int kPieces, int kTiles>
__global__ void __launch_bounds__(WideShared<kFormat, kPieces, kTiles>::kThreads, 1)
    WideKernel(const __grid_constant__ WideArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Shared = WideShared<kFormat, kPieces, kTiles>;
  constexpr int kConsumerWarps = Shared::kConsumerWarps;
  extern __shared__ char memory[];
  const uint32_t misaligned = SharedAddress(memory) % 1024;
  Shared& shared = *reinterpret_cast<Shared*>(memory + (misaligned == 0 ? 0 : 1024 - misaligned));
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      BarrierInit(SharedAddress(&shared.full[i]), kKeyThreads + 1);
      BarrierInit(SharedAddress(&shared.empty[i]), kConsumerWarps * kCluster);
    }
    BarrierInit(SharedAddress(&shared.values_full), kConsumerWarps);
    BarrierInit(SharedAddress(&shared.values_empty), 1);
    FenceBarrierInit();
  }
  __syncthreads();
  ClusterBarrier();
  const int warp = threadIdx.x / 32;
  constexpr bool kManyRegisters = kFormat == KeyFormat::kFloat8 && kTiles > 20;
  if (warp < kConsumerWarps) {
    if constexpr (kManyRegisters) TakeRegisters<kConsumerRegisters>();
    Consume(args, shared);
  } else {
    if constexpr (kManyRegisters) GiveRegisters<kOtherRegisters>();
    if (warp < kConsumerWarps + kKeyThreads / 32) {
      ProduceKeys(args, shared);
    } else if (warp == kConsumerWarps + kKeyThreads / 32) {
      ProduceColumns(args, shared);
    } else {
      Finish(args, shared);
    }
  }
  __syncthreads();
  ClusterBarrier();  // the other block may still write here, or arrive
#endif
}

template <KeyFormat kFormat, int kPieces, int kTiles>
cudaError_t LaunchPass(const WideArgs& args, cudaStream_t stream) {
  using Shared = WideShared<kFormat, kPieces, kTiles>;
  static_assert(kSharedBytes<Shared> <= kMaxSharedBytes);
  const auto kernel = WideKernel<kFormat, kPieces, kTiles>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           kSharedBytes<Shared>);
  int device = 0;
  int multiprocessors = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors / kCluster * kCluster));
  config.blockDim = dim3(Shared::kThreads);
  config.dynamicSmemBytes = kSharedBytes<Shared>;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, args);
}

template <KeyFormat kFormat, int kPieces, int kFrom = 0>
cudaError_t Launch(const WideArgs& args, cudaStream_t stream) {
  if constexpr (kFrom == std::size(kTileCounts)) {
    return cudaErrorInvalidValue;
  } else {
    return args.block_tiles == kTileCounts[kFrom]
               ? LaunchPass<kFormat, kPieces, kTileCounts[kFrom]>(args, stream)
               : Launch<kFormat, kPieces, kFrom + 1>(args, stream);
  }
}

cudaError_t LaunchFormat(const WideArgs& args, cudaStream_t stream) {
  switch (args.format) {
    case KeyFormat::kFloat8:
      if (args.pieces == 1) return Launch<KeyFormat::kFloat8, 1>(args, stream);
      if (args.block_tiles == 8) return LaunchPass<KeyFormat::kFloat8, 2, 8>(args, stream);
      return args.block_tiles == 16 ? LaunchPass<KeyFormat::kFloat8, 2, 16>(args, stream)
                                    : LaunchPass<KeyFormat::kFloat8, 2, 32>(args, stream);
    case KeyFormat::kInt8:
      if (args.pieces == 1) return Launch<KeyFormat::kInt8, 1>(args, stream);
      if (args.pieces == 2) return Launch<KeyFormat::kInt8, 2>(args, stream);
      return args.block_tiles == 12 ? LaunchPass<KeyFormat::kInt8, 3, 12>(args, stream)
                                    : LaunchPass<KeyFormat::kInt8, 3, 24>(args, stream);
    default:
      return Launch<KeyFormat::kBFloat16, 1>(args, stream);
  }
}

// As few blocks of columns as can be, of the fewest columns that do; of three pieces, of 32 rows or
// of 64; of two halves, of 32, 64 or 128.
void ChooseBlocks(WideArgs& args) {
  const int most = WideBlockRowTiles(args.pieces);
  args.num_blocks = (args.num_tiles + most - 1) / most;
  const int row_tiles = (args.num_tiles + args.num_blocks - 1) / args.num_blocks;
  if (args.pieces == 3) {
    args.block_tiles = row_tiles <= most / 2 ? 12 : 24;
    return;
  }
  if (args.format == KeyFormat::kFloat8 && args.pieces == 2) {
    args.block_tiles = row_tiles <= 4 ? 8 : row_tiles <= 8 ? 16 : 32;
    return;
  }
  args.block_tiles =
      *std::lower_bound(std::begin(kTileCounts), std::end(kTileCounts), row_tiles * args.pieces);
}

int NumSlices(KeyFormat format, int width) {
  return (KeyBytes(format, width) + kWideSliceBytes - 1) / kWideSliceBytes;
}

}  // namespace

bool HasWidePass(KeyFormat format) {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    return false;
  }
  return major == 9 && (format == KeyFormat::kBFloat16 || format == KeyFormat::kFloat8 ||
                        format == KeyFormat::kInt8);
}

size_t WidePackedBytes(KeyFormat format, int width, int num_blocks) {
  return static_cast<size_t>(num_blocks) *
         (static_cast<size_t>(NumSlices(format, width)) * ColumnSliceBytes(format) +
          sizeof(float)) *
         kBlockColumns;
}

cudaError_t LaunchWide(WideArgs args, void* workspace, cudaStream_t stream) {
  args.row_bytes = KeyBytes(args.format, args.width);
  args.num_slices = NumSlices(args.format, args.width);
  ChooseBlocks(args);
  args.packed = static_cast<char*>(workspace);
  const size_t block_bytes = static_cast<size_t>(args.num_slices) * args.block_tiles *
                             kColumnsOfTile * ColumnSliceBytes(args.format);
  args.column_scales = reinterpret_cast<float*>(args.packed + args.num_blocks * block_bytes);
  const int row_tiles = args.block_tiles / args.pieces;
  for (int block = 0; block < args.num_blocks; ++block) {
    args.run_ends[block] = 0;
    for (int j = 0; j < row_tiles; ++j) {
      const int tile = block * row_tiles + j;
      if (tile >= args.num_tiles) break;
      const bool ends = j + 1 == row_tiles || tile + 1 == args.num_tiles ||
                        args.tiles[tile + 1].question != args.tiles[tile].question;
      args.run_ends[block] |= static_cast<uint32_t>(ends) << j;
    }
  }
  const cudaError_t error = LaunchPrepareWide(args, stream);
  return error != cudaSuccess || args.num_chunks == 0 ? error : LaunchFormat(args, stream);
}

}  // namespace msa::kernels::cuda
