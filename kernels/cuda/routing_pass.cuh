// The tensor-core routing pass: one persistent block a multiprocessor, which reads its share of the
// chunks once through a ring of shared-memory stages.
//
//   producer warps   copy slices (kSliceBytes of every key of a tile) into the ring
//   consumer warps   tile of keys × columns; the maximum over each tile of 8 columns
//   finishing warps  a tile each in turn: times the chunk's scale, maximum over a question's tiles
//                    and a part's chunks, one atomic maximum a part and question. They wait for
//                    device memory (scales, parts) most of the time, so there are several.
//
// A dot product adds its steps in the order of the width, whatever the shape of the tile.
#ifndef MSA_KERNELS_CUDA_ROUTING_PASS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_PASS_CUH_

#include <cuda_fp8.h>

#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_cursor.cuh"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

constexpr int kConsumerWarps = 8;
constexpr int kProducerWarps = 2;
constexpr int kFinishWarps = 2;
constexpr int kPassThreads = 32 * (kConsumerWarps + kProducerWarps + kFinishWarps);
constexpr int kMaxStages = 8;

// How consumer warps share a tile of keys: rows in groups of 16 · kRowTiles, columns in groups of
// 8 · kColumnTiles. Many columns are bound by reading queries from shared memory: a warp reads a
// fragment of them for 32 keys, or for 64 where keys of 8 bits come twice as fast.
__host__ __device__ constexpr int RowTiles(KeyFormat format, int pieces, int columns) {
  const bool narrow_keys = IsInteger(format) || (format == KeyFormat::kFloat8 && pieces == 1);
  return columns == 1 ? 1 : narrow_keys && columns == 4 ? 4 : 2;
}
__host__ __device__ constexpr int ColumnGroups(int columns) { return columns == 1 ? 1 : 2; }
__host__ __device__ constexpr int TileRows(KeyFormat format, int pieces, int columns) {
  return kConsumerWarps / ColumnGroups(columns) * 16 * RowTiles(format, pieces, columns);
}

template <KeyFormat kKeys, int kPieceCount, int kColumns, int kSlice>
struct PassShape {
  static constexpr KeyFormat kFormat = kKeys;
  static constexpr int kPieces = kPieceCount;
  static constexpr int kCapacity = kColumns;
  static constexpr int kColumnGroups = ColumnGroups(kColumns);
  static constexpr int kColumnTiles = kColumns / kColumnGroups;
  static constexpr int kRowTiles = RowTiles(kKeys, kPieceCount, kColumns);
  static constexpr int kTileRows = TileRows(kKeys, kPieceCount, kColumns);
  static constexpr int kSliceBytes = kSlice;
  // One access width of padding: the 8 rows of a fragment lie in different banks.
  static constexpr int kPitch = kSlice + 16;
  static constexpr int kStageBytes = kTileRows * kPitch;
  static constexpr int kValuesBytes = kColumns * kTileRows * static_cast<int>(sizeof(float));
  static constexpr int kSteps = KeyElements(kKeys, kSlice) / StepWidth(kKeys);  // of a slice
  static constexpr int kStepBytes = kColumns * PackedStepBytes(kKeys, kPieceCount);
  using TileValues = float (*)[kTileRows];  // best of each column tile, by chunk
};

// Shared memory that is there whatever the shape. The packed queries follow it, then the best of
// each column tile by chunk, [kFinishWarps][capacity][tile rows] float, then the stages.
struct PassShared {
  uint64_t stage_full[kMaxStages];
  uint64_t stage_empty[kMaxStages];
  uint64_t values_full[kFinishWarps];
  uint64_t values_empty[kFinishWarps];
  ColumnScaling scaling;
};
static_assert(sizeof(PassShared) % 16 == 0);

template <typename Shape>
__device__ TileCursor CursorOfBlock(const PassArgs& args) {
  return TileCursor(args.segments, args.num_segments, args.num_chunks, blockIdx.x, gridDim.x,
                    Shape::kTileRows);
}

// 16 bytes a lane and copy. Two warps copy 18 bytes a cycle: there is time for a handful of
// instructions a copy, not for addresses made anew.
template <typename Shape>
__device__ void Produce(const PassArgs& args, PassShared& shared, uint32_t stages) {
  constexpr int kUnits = Shape::kSliceBytes / 16;
  constexpr int kRowsOfCopy = 32 * kProducerWarps / kUnits;
  const int thread = threadIdx.x - 32 * kConsumerWarps;
  const int unit = thread % kUnits;
  const int first_row = thread / kUnits;
  const int64_t step = static_cast<int64_t>(kRowsOfCopy) * args.row_bytes;
  stages += first_row * Shape::kPitch + unit * 16;
  StageCursor at;
  for (TileCursor tile = CursorOfBlock<Shape>(args); tile.Next();) {
    const char* keys =
        static_cast<const char*>(tile.segment().keys) + (tile.row() + first_row) * args.row_bytes;
    const int rows = tile.rows() - first_row;
    for (int offset = unit * 16; offset < args.num_slices * Shape::kSliceBytes;
         offset += Shape::kSliceBytes) {
      const uint32_t bytes = offset < args.row_bytes ? 16 : 0;
      const char* from = keys + (bytes != 0 ? offset : 0);
      const uint32_t to = stages + at.stage * Shape::kStageBytes;
      BarrierWait(SharedAddress(&shared.stage_empty[at.stage]), at.phase ^ 1);
#pragma unroll
      for (int i = 0; i < Shape::kTileRows; i += kRowsOfCopy) {
        if (i < rows) CopyAsync16(to + i * Shape::kPitch, from, bytes);
        from += step;
      }
      BarrierArriveAfterCopies(SharedAddress(&shared.stage_full[at.stage]));
      at.Advance(args.num_stages);
    }
  }
}

// Sums of a warp's rows × columns, and the steps that add to them.
template <typename Shape>
struct Products {
  using Sum = std::conditional_t<IsInteger(Shape::kFormat), int32_t, float>;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kColumnTiles = Shape::kColumnTiles;
  Sum sums[Shape::kPieces][kRowTiles][kColumnTiles][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < Shape::kPieces * kRowTiles * kColumnTiles * 4; ++i) {
      (&sums[0][0][0][0])[i] = 0;
    }
  }

  // `a` is the fragment of kRowTiles · 16 keys for the products of one step.
  __device__ void Step(const uint32_t (&a)[kRowTiles][4], const char* packed) {
    const uint2* fragments = reinterpret_cast<const uint2*>(packed) + threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int p = 0; p < Shape::kPieces; ++p) {
        const uint2 b = fragments[(n * Shape::kPieces + p) * 32];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if constexpr (Shape::kFormat == KeyFormat::kInt8) {
            MmaInt8(sums[p][m][n], a[m], b);
          } else if constexpr (Shape::kFormat == KeyFormat::kInt4) {
            MmaUint8Int8(sums[p][m][n], a[m], b);
          } else if constexpr (Shape::kFormat == KeyFormat::kFloat8) {
            MmaHalf(sums[p][m][n], a[m], b);
          } else {
            MmaBFloat16(sums[p][m][n], a[m], b);
          }
        }
      }
    }
  }

  // A slice of the keys times the columns. `keys` is the shared-memory address of the warp's first
  // row, `packed` its first column's fragment of the slice's first step.
  __device__ void AddSlice(uint32_t keys, const char* packed) {
    const int lane = threadIdx.x % 32;
    const uint32_t address = keys + lane % 16 * Shape::kPitch + lane / 16 * 16;
#pragma unroll
    for (int i = 0; i < Shape::kSliceBytes / 32; ++i) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        LoadMatrix4(a[m], address + m * 16 * Shape::kPitch + i * 32);
      }
      AddFragment(a, packed + i * kStepsOfFragment * Shape::kStepBytes, Shape::kStepBytes);
    }
  }

  // 32 bytes of the keys' width; `step_bytes` from step to step of the packed columns.
  static constexpr int kStepsOfFragment =
      KeyElements(Shape::kFormat, 32) / StepWidth(Shape::kFormat);
  __device__ void AddFragment(const uint32_t (&a)[kRowTiles][4], const char* packed,
                              int step_bytes) {
    if constexpr (Shape::kFormat == KeyFormat::kFloat8) {
      AddFloat8(a, packed, step_bytes);
    } else if constexpr (Shape::kFormat == KeyFormat::kInt4) {
      AddInt4(a, packed, step_bytes);
    } else {
      Step(a, packed);
    }
  }

  // Bytes 4t … 4t+3 of thread t make its two registers of a step's fragment; PrepareQueries packs
  // the columns in that order.
  __device__ void AddFloat8(const uint32_t (&a)[kRowTiles][4], const char* packed, int step_bytes) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t wide[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // rows, rows + 8
          const uint32_t four = a[m][2 * step + half];
          wide[m][half] = Widen(four);
          wide[m][half + 2] = Widen(four >> 16);
        }
      }
      Step(wide, packed + step * step_bytes);
    }
  }

  // Low halves of the bytes are the first step's elements, high halves the second's.
  __device__ void AddInt4(const uint32_t (&a)[kRowTiles][4], const char* packed, int step_bytes) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t wide[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < 4 * kRowTiles; ++i) {
        (&wide[0][0])[i] = (&a[0][0])[i] >> (4 * step) & 0x0F0F0F0Fu;
      }
      Step(wide, packed + step * step_bytes);
    }
  }

  __device__ static uint32_t Widen(uint32_t two) {
    const __half2_raw wide =
        __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
    return wide.x | static_cast<uint32_t>(wide.y) << 16;
  }

  // The dot product of an element of the fragment; `column` of `scaling` is its column.
  __device__ float Value(int m, int n, int i, const ColumnScaling& scaling, int column) const {
    float value = static_cast<float>(sums[0][m][n][i]);
    if constexpr (IsInteger(Shape::kFormat)) {
#pragma unroll
      for (int p = 1; p < Shape::kPieces; ++p) {
        value = fmaf(256.0f, value, static_cast<float>(sums[p][m][n][i]));
      }
      if constexpr (Shape::kFormat == KeyFormat::kInt4) value += scaling.offset[column];
    } else if constexpr (Shape::kPieces == 2) {
      value += sums[1][m][n][i];
    }
    return Shape::kFormat == KeyFormat::kBFloat16 ? value : value * scaling.scale[column];
  }

  // Best of column tile n, which begins at `column` of `scaling`, for rows lane / 4 (low) and
  // lane / 4 + 8 (high) of row tile m; the same in all four lanes of a row.
  __device__ void Best(int m, int n, const ColumnScaling& scaling, int column, float& low,
                       float& high) const {
    column += threadIdx.x % 4 * 2;
    low = MaxOrNan(Value(m, n, 0, scaling, column), Value(m, n, 1, scaling, column + 1));
    high = MaxOrNan(Value(m, n, 2, scaling, column), Value(m, n, 3, scaling, column + 1));
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 1));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 1));
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 2));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 2));
  }

  // Best of each column tile, to values[column tile][row]. `values` is at the warp's first row and
  // column tile, which is `column_tile` of `scaling`.
  __device__ void StoreBest(const ColumnScaling& scaling, int column_tile,
                            typename Shape::TileValues values) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float low;
        float high;
        Best(m, n, scaling, (column_tile + n) * kColumnsOfTile, low, high);
        if (lane % 4 == 0) {
          values[n][m * 16 + lane / 4] = low;
          values[n][m * 16 + lane / 4 + 8] = high;
        }
      }
    }
  }
};

// Float32 keys: plain multiply-adds, a lane has a row and 4 columns of each tile. Every 32 products
// are summed by themselves, then added: the error of 1,024 products is about that of 32.
template <typename Shape>
struct FloatProducts {
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kColumnTiles = Shape::kColumnTiles;
  static constexpr int kStepsOfSum = 8;  // the same for every slice size
  float sums[kRowTiles][kColumnTiles][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) (&sums[0][0][0])[i] = 0;
  }

  __device__ void AddSlice(uint32_t keys, const char* packed) {
    const int lane = threadIdx.x % 32;
    const char* row =
        static_cast<const char*>(__cvta_shared_to_generic(keys + lane % 16 * Shape::kPitch));
    const char* columns = packed + lane / 16 * 4 * sizeof(float4);
    for (int i = 0; i < Shape::kSteps; i += kStepsOfSum) {
      AddSteps(row + i * 16, columns + i * Shape::kStepBytes);
    }
  }

  __device__ void AddSteps(const char* row, const char* columns) {
    float part[kRowTiles][kColumnTiles][4] = {};
#pragma unroll 4
    for (int i = 0; i < kStepsOfSum; ++i) {
      float4 a[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        a[m] = *reinterpret_cast<const float4*>(row + m * 16 * Shape::kPitch + i * 16);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float4 b = reinterpret_cast<const float4*>(
              columns + i * Shape::kStepBytes)[n * kColumnsOfTile + c];
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            float& sum = part[m][n][c];
            sum = fmaf(a[m].x, b.x, sum);
            sum = fmaf(a[m].y, b.y, sum);
            sum = fmaf(a[m].z, b.z, sum);
            sum = fmaf(a[m].w, b.w, sum);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) {
      (&sums[0][0][0])[i] += (&part[0][0][0])[i];
    }
  }

  __device__ void StoreBest(const ColumnScaling&, int, typename Shape::TileValues values) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float(&sum)[4] = sums[m][n];
        float best = MaxOrNan(MaxOrNan(sum[0], sum[1]), MaxOrNan(sum[2], sum[3]));
        best = MaxOrNan(best, __shfl_xor_sync(~0u, best, 16));
        if (lane < 16) values[n][m * 16 + lane] = best;
      }
    }
  }
};

template <typename Shape>
__device__ void Consume(const PassArgs& args, PassShared& shared, char* packed, char* values,
                        uint32_t stages) {
  using Sums = std::conditional_t<Shape::kFormat == KeyFormat::kFloat32, FloatProducts<Shape>,
                                  Products<Shape>>;
  WaitForPrerequisites();
  const uint4* from = static_cast<const uint4*>(args.packed);
  for (int i = threadIdx.x; i < args.packed_bytes / 16; i += 32 * kConsumerWarps) {
    reinterpret_cast<uint4*>(packed)[i] = from[i];
  }
  if (threadIdx.x < sizeof(ColumnScaling) / sizeof(float)) {
    reinterpret_cast<float*>(&shared.scaling)[threadIdx.x] =
        reinterpret_cast<const float*>(args.scaling)[threadIdx.x];
  }
  NamedBarrier(1, 32 * kConsumerWarps);

  const int warp = threadIdx.x / 32;
  const int column_tile = warp % Shape::kColumnGroups * Shape::kColumnTiles;
  const int row = warp / Shape::kColumnGroups * 16 * Shape::kRowTiles;
  const char* columns = packed + column_tile * PackedStepBytes(Shape::kFormat, Shape::kPieces);
  const uint32_t keys = stages + row * Shape::kPitch;
  StageCursor at;
  StageCursor out;
  Sums sums;
  for (TileCursor tile = CursorOfBlock<Shape>(args); tile.Next();) {
    sums.Clear();
    for (int slice = 0; slice < args.num_slices; ++slice) {
      BarrierWait(SharedAddress(&shared.stage_full[at.stage]), at.phase);
      sums.AddSlice(keys + at.stage * Shape::kStageBytes,
                    columns + slice * Shape::kSteps * Shape::kStepBytes);
      __syncwarp();
      if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&shared.stage_empty[at.stage]));
      at.Advance(args.num_stages);
    }
    BarrierWait(SharedAddress(&shared.values_empty[out.stage]), out.phase ^ 1);
    float* to = reinterpret_cast<float*>(values + out.stage * Shape::kValuesBytes);
    sums.StoreBest(
        shared.scaling, column_tile,
        reinterpret_cast<typename Shape::TileValues>(to + column_tile * Shape::kTileRows + row));
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&shared.values_full[out.stage]));
    out.Advance(kFinishWarps);
  }
}

// values[first tile of a question's run] = scale of the chunk · scale · best of its tiles.
template <int kTileRows>
__device__ void FoldTiles(const PassArgs& args, const float (&chunk_scales)[kTileRows / 32],
                          int rows, float (*values)[kTileRows]) {
#pragma unroll
  for (int i = 0; i < kTileRows / 32; ++i) {
    const int r = threadIdx.x % 32 + 32 * i;
    if (r >= rows) break;
    int first = 0;
    float best = values[0][r];
    for (int tile = 1; tile <= args.num_tiles; ++tile) {
      if (tile < args.num_tiles && args.question[tile] == args.question[first]) {
        best = MaxOrNan(best, values[tile][r]);
        continue;
      }
      values[first][r] = best * chunk_scales[i] * args.scale;
      if (tile == args.num_tiles) break;
      first = tile;
      best = values[tile][r];
    }
  }
}

// Best of chunks begin … end-1 of the tile to every question's score of a part.
template <int kTileRows>
__device__ void ScorePart(const PassArgs& args, int64_t column, int begin, int end,
                          const float (*values)[kTileRows]) {
  for (int tile = 0; tile < args.num_tiles; ++tile) {
    if (tile > 0 && args.question[tile] == args.question[tile - 1]) continue;
    float best = kNoScore;
    for (int r = begin; r < end; ++r) best = MaxOrNan(best, values[tile][r]);
    AtomicMaxOrNan(args.scores + args.question[tile] * args.score_stride + column, best);
  }
}

// Every kFinishWarps-th tile, beginning with the warp's own. What comes from device memory is asked
// for before the values are there.
template <typename Shape>
__device__ void Finish(const PassArgs& args, PassShared& shared, char* values) {
  constexpr int kTileRows = Shape::kTileRows;
  const int lane = threadIdx.x % 32;
  const int own = threadIdx.x / 32 - kConsumerWarps - kProducerWarps;
  const auto of_tile =
      reinterpret_cast<typename Shape::TileValues>(values + own * Shape::kValuesBytes);
  uint32_t phase = 0;
  int next = own;
  bool new_segment = false;
  int64_t part = 0;
  WaitForPrerequisites();
  for (TileCursor tile = CursorOfBlock<Shape>(args); tile.Next();) {
    new_segment = new_segment || tile.new_segment();
    if (next-- > 0) continue;
    next = kFinishWarps - 1;
    const RoutingSegment& segment = tile.segment();
    float chunk_scales[kTileRows / 32];
#pragma unroll
    for (int i = 0; i < kTileRows / 32; ++i) {
      const int r = lane + 32 * i;
      const bool scaled = segment.scales != nullptr && r < tile.rows();
      chunk_scales[i] = scaled ? segment.scales[tile.row() + r] : 1.0f;
    }
    if (new_segment) part = FindPart(segment, tile.row());
    new_segment = false;
    const PartRange range = LoadPart(segment, part);
    BarrierWait(SharedAddress(&shared.values_full[own]), phase);
    phase ^= 1;
    FoldTiles<kTileRows>(args, chunk_scales, tile.rows(), of_tile);
    __syncwarp();
    part = WalkParts(segment, part, range, tile.row(), tile.rows(), tile.row() + tile.rows(),
                     [&](int64_t column, int begin, int end) {
                       ScorePart<kTileRows>(args, column, begin, end, of_tile);
                     });
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&shared.values_empty[own]));
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kPassThreads, 1)
    RoutingPassKernel(const __grid_constant__ PassArgs args) {
  extern __shared__ __align__(128) char memory[];
  PassShared& shared = *reinterpret_cast<PassShared*>(memory);
  char* packed = memory + sizeof(PassShared);
  char* values = packed + args.packed_bytes;
  const uint32_t stages = SharedAddress(values + kFinishWarps * Shape::kValuesBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < args.num_stages; ++i) {
      BarrierInit(SharedAddress(&shared.stage_full[i]), 32 * kProducerWarps);
      BarrierInit(SharedAddress(&shared.stage_empty[i]), kConsumerWarps);
    }
    for (int i = 0; i < kFinishWarps; ++i) {
      BarrierInit(SharedAddress(&shared.values_full[i]), kConsumerWarps);
      BarrierInit(SharedAddress(&shared.values_empty[i]), 1);
    }
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (warp < kConsumerWarps) {
    Consume<Shape>(args, shared, packed, values, stages);
  } else if (warp < kConsumerWarps + kProducerWarps) {
    Produce<Shape>(args, shared, stages);
  } else {
    Finish<Shape>(args, shared, values);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_PASS_CUH_
