// The tensor-core routing pass: one persistent block a multiprocessor, which reads its share of the
// chunks once through a ring of shared-memory stages.
//
//   producer warps   copy slices (kSliceBytes of every key of a tile) into the ring
//   consumer warps   tile of keys × columns; the maximum over each tile of 8 columns
//   last warp        times the chunk's scale, maximum over a question's tiles and a part's chunks,
//                    one atomic maximum a part and question
//
// A dot product adds its steps in the order of the width, whatever the shape of the tile.
#ifndef MSA_KERNELS_CUDA_ROUTING_PASS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_PASS_CUH_

#include <cuda_fp8.h>

#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

constexpr int kTileRows = 128;
constexpr int kConsumerWarps = 8;
constexpr int kProducerWarps = 2;
constexpr int kPassThreads = 32 * (kConsumerWarps + kProducerWarps + 1);
constexpr int kMaxStages = 8;

// How consumer warps share a tile: rows in groups of 16 · kRowTiles, columns in groups of 8 ·
// kColumnTiles.
template <int kColumns>
struct WarpShape {  // 4 or 8 tiles of columns: a warp reads a fragment of queries for 32 keys
  static constexpr int kColumnGroups = 2;
  static constexpr int kRowTiles = 2;
  static constexpr int kColumnTiles = kColumns / 2;
};
template <>
struct WarpShape<1> {
  static constexpr int kColumnGroups = 1;
  static constexpr int kRowTiles = 1;
  static constexpr int kColumnTiles = 1;
};

template <KeyFormat kKeys, int kPieceCount, int kColumns, int kSlice, bool kBulkCopies>
struct PassShape : WarpShape<kColumns> {
  static constexpr KeyFormat kFormat = kKeys;
  static constexpr int kPieces = kPieceCount;
  static constexpr int kCapacity = kColumns;
  static constexpr int kSliceBytes = kSlice;
  static constexpr bool kBulk = kBulkCopies;
  // One access width of padding: the 8 rows of a fragment lie in different banks.
  static constexpr int kPitch = kSlice + 16;
  static constexpr int kStageBytes = kTileRows * kPitch;
  static constexpr int kSteps = kSlice / KeyBytes(kKeys) / StepWidth(kKeys);  // of a slice
  static constexpr int kStepBytes = kColumns * PackedStepBytes(kKeys, kPieceCount);
  static_assert(kConsumerWarps * 16 * WarpShape<kColumns>::kRowTiles ==
                kTileRows * WarpShape<kColumns>::kColumnGroups);
};

// Shared memory that is there whatever the shape; the packed queries and the stages follow it.
struct PassShared {
  uint64_t stage_full[kMaxStages];
  uint64_t stage_empty[kMaxStages];
  uint64_t values_full[2];
  uint64_t values_empty[2];
  float column_scales[kMaxTiles * kColumnsOfTile];
  alignas(16) float values[2][kMaxTiles][kTileRows];  // best of a column tile, by chunk
};

// Walks the chunks [at, end) of all segments in tiles that do not cross segments. Every warp of the
// block has one; all lanes agree.
class TileCursor {
 public:
  __device__ TileCursor(const PassArgs& args)
      : segments_(args.segments),
        at_(args.num_chunks * blockIdx.x / gridDim.x),
        end_(args.num_chunks * (blockIdx.x + 1) / gridDim.x) {
    const int lane = threadIdx.x % 32;
    int before = 0;  // segments that begin at or before at_
    for (int first = 0; first < args.num_segments; first += 32) {
      const bool mine =
          first + lane < args.num_segments && segments_[first + lane].first_chunk <= at_;
      const int count = __popc(__ballot_sync(~0u, mine));
      before += count;
      if (count < 32) break;
    }
    segment_ = before - 1;
    if (at_ < end_) current_ = segments_[segment_];
  }

  // False at the end.
  __device__ bool Next() {
    if (at_ >= end_) return false;
    new_segment_ = first_;
    first_ = false;
    while (at_ >= current_.first_chunk + current_.num_chunks) {
      current_ = segments_[++segment_];
      new_segment_ = true;
    }
    row_ = at_ - current_.first_chunk;
    const int64_t stop = min(end_, current_.first_chunk + current_.num_chunks);
    rows_ = static_cast<int>(min(stop - at_, static_cast<int64_t>(kTileRows)));
    at_ += rows_;
    return true;
  }

  __device__ const RoutingSegment& segment() const { return current_; }
  __device__ bool new_segment() const { return new_segment_; }
  __device__ int64_t row() const { return row_; }  // first chunk of the tile in its segment
  __device__ int rows() const { return rows_; }

 private:
  const RoutingSegment* segments_;
  int64_t at_;
  int64_t end_;
  int segment_ = 0;
  RoutingSegment current_;
  bool first_ = true;
  bool new_segment_ = false;
  int64_t row_ = 0;
  int rows_ = 0;
};

// A place in the ring of stages.
struct StageCursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Advance(int num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// One producer warp's half of a stage: rows of the tile, 16 bytes a lane and copy.
template <typename Shape>
__device__ void CopySliceAsync(uint32_t to, const char* keys, int row_bytes, int rows, int slice) {
  constexpr int kUnits = Shape::kSliceBytes / 16;
  constexpr int kRowsOfCopy = 32 * kProducerWarps / kUnits;
  const int thread = threadIdx.x - 32 * kConsumerWarps;
  const int row = thread / kUnits;
  const int offset = slice * Shape::kSliceBytes + thread % kUnits * 16;
  const uint32_t bytes = offset < row_bytes ? 16 : 0;
  const char* from = keys + static_cast<int64_t>(row) * row_bytes + (bytes != 0 ? offset : 0);
  const int64_t step = static_cast<int64_t>(kRowsOfCopy) * row_bytes;
  to += row * Shape::kPitch + thread % kUnits * 16;
  if (rows == kTileRows) {
#pragma unroll 16
    for (int i = 0; i < kTileRows / kRowsOfCopy; ++i) {
      CopyAsync16(to + i * kRowsOfCopy * Shape::kPitch, from, bytes);
      from += step;
    }
    return;
  }
  for (int i = row; i < rows; i += kRowsOfCopy) {
    CopyAsync16(to, from, bytes);
    to += kRowsOfCopy * Shape::kPitch;
    from += step;
  }
}

template <typename Shape>
__device__ void Produce(const PassArgs& args, PassShared& shared, uint32_t stages) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 - kConsumerWarps;
  if (Shape::kBulk && warp != 0) return;
  StageCursor at;
  for (TileCursor tile(args); tile.Next();) {
    const char* keys = static_cast<const char*>(tile.segment().keys) + tile.row() * args.row_bytes;
    for (int slice = 0; slice < args.num_slices; ++slice) {
      BarrierWait(SharedAddress(&shared.stage_empty[at.stage]), at.phase ^ 1);
      const uint32_t full = SharedAddress(&shared.stage_full[at.stage]);
      const uint32_t to = stages + at.stage * Shape::kStageBytes;
      if constexpr (Shape::kBulk) {
        if (lane == 0) BarrierExpect(full, tile.rows() * Shape::kSliceBytes);
        __syncwarp();
        const char* from = keys + slice * Shape::kSliceBytes;
        for (int row = lane; row < tile.rows(); row += 32) {
          CopyBulk(to + row * Shape::kPitch, from + static_cast<int64_t>(row) * args.row_bytes,
                   Shape::kSliceBytes, full);
        }
      } else {
        CopySliceAsync<Shape>(to, keys, args.row_bytes, tile.rows(), slice);
        BarrierArriveAfterCopies(full);
      }
      at.Advance(args.num_stages);
    }
  }
}

// Sums of a warp's rows × columns, and the steps that add to them.
template <typename Shape>
struct Products {
  static constexpr bool kIsInt8 = Shape::kFormat == KeyFormat::kInt8;
  using Sum = std::conditional_t<kIsInt8, int32_t, float>;
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
          if constexpr (kIsInt8) {
            MmaInt8(sums[p][m][n], a[m], b);
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
    for (int i = 0; i < Shape::kSliceBytes / 32; ++i) {  // a fragment is 32 bytes wide
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        LoadMatrix4(a[m], address + m * 16 * Shape::kPitch + i * 32);
      }
      if constexpr (Shape::kFormat == KeyFormat::kFloat8) {
        AddFloat8(a, packed + 2 * i * Shape::kStepBytes);
      } else {
        Step(a, packed + i * Shape::kStepBytes);
      }
    }
  }

  // Bytes 4t … 4t+3 of thread t make its two registers of a step's fragment; PrepareQueries packs
  // the columns in that order.
  __device__ void AddFloat8(const uint32_t (&a)[kRowTiles][4], const char* packed) {
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
      Step(wide, packed + step * Shape::kStepBytes);
    }
  }

  __device__ static uint32_t Widen(uint32_t two) {
    const __half2_raw wide =
        __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
    return wide.x | static_cast<uint32_t>(wide.y) << 16;
  }

  // The dot product of an element of the fragment.
  __device__ float Value(int m, int n, int i, float column_scale) const {
    if constexpr (kIsInt8) {
      float value = static_cast<float>(sums[0][m][n][i]);
#pragma unroll
      for (int p = 1; p < Shape::kPieces; ++p) {
        value = fmaf(256.0f, value, static_cast<float>(sums[p][m][n][i]));
      }
      return value * column_scale;
    }
    float value = sums[0][m][n][i];
    if constexpr (Shape::kPieces == 2) value += sums[1][m][n][i];
    return Shape::kFormat == KeyFormat::kFloat8 ? value * column_scale : value;
  }

  // Best of each column tile, to values[column tile][row]. `values` is at the warp's first row and
  // column tile, `scales` at its first column.
  __device__ void StoreBest(const float* scales, float (*values)[kTileRows]) const {
    const int lane = threadIdx.x % 32;
    const int column = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const float scale0 = scales[n * kColumnsOfTile + column];
      const float scale1 = scales[n * kColumnsOfTile + column + 1];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float low = MaxOrNan(Value(m, n, 0, scale0), Value(m, n, 1, scale1));
        float high = MaxOrNan(Value(m, n, 2, scale0), Value(m, n, 3, scale1));
        low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 1));
        high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 1));
        low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 2));
        high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 2));
        if (lane % 4 == 0) {
          values[n][m * 16 + lane / 4] = low;
          values[n][m * 16 + lane / 4 + 8] = high;
        }
      }
    }
  }
};

// Float32 keys: plain multiply-adds, a lane has a row and 4 columns of each tile. A slice is summed
// by itself, then added: the error of 1,024 products is about that of 64.
template <typename Shape>
struct FloatProducts {
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kColumnTiles = Shape::kColumnTiles;
  float sums[kRowTiles][kColumnTiles][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) (&sums[0][0][0])[i] = 0;
  }

  __device__ void AddSlice(uint32_t keys, const char* packed) {
    float part[kRowTiles][kColumnTiles][4] = {};
    const int lane = threadIdx.x % 32;
    const char* row =
        static_cast<const char*>(__cvta_shared_to_generic(keys + lane % 16 * Shape::kPitch));
    const char* columns = packed + lane / 16 * 4 * sizeof(float4);
#pragma unroll 4
    for (int i = 0; i < Shape::kSteps; ++i) {
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

  __device__ void StoreBest(const float* scales, float (*values)[kTileRows]) const {
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
__device__ void Consume(const PassArgs& args, PassShared& shared, char* packed, uint32_t stages) {
  using Sums = std::conditional_t<Shape::kFormat == KeyFormat::kFloat32, FloatProducts<Shape>,
                                  Products<Shape>>;
  WaitForPrerequisites();
  const uint4* from = static_cast<const uint4*>(args.packed);
  for (int i = threadIdx.x; i < args.packed_bytes / 16; i += 32 * kConsumerWarps) {
    reinterpret_cast<uint4*>(packed)[i] = from[i];
  }
  if (threadIdx.x < Shape::kCapacity * kColumnsOfTile) {
    shared.column_scales[threadIdx.x] = args.column_scales[threadIdx.x];
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
  for (TileCursor tile(args); tile.Next();) {
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
    sums.StoreBest(
        shared.column_scales + column_tile * kColumnsOfTile,
        reinterpret_cast<float(*)[kTileRows]>(&shared.values[out.stage][column_tile][row]));
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&shared.values_full[out.stage]));
    out.Advance(2);
  }
}

// First part of the segment that ends after chunk `row`; all lanes of the warp agree.
__device__ inline int64_t FindPart(const RoutingSegment& segment, int64_t row) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0;
  int64_t high = segment.num_parts;  // the answer is in low … high
  while (low < high) {
    const int64_t step = (high - low + 31) / 32;
    const int64_t probe = low + lane * step;
    const bool ended = probe < high && segment.part_begin[probe + 1] <= row;
    const int count = __popc(__ballot_sync(~0u, ended));
    if (count < 32) high = min(high, low + count * step);
    if (count > 0) low += (count - 1) * step + 1;
  }
  return low;
}

// values[first tile of a question's run] = scale of the chunk · scale · best of its tiles.
__device__ inline void FoldTiles(const PassArgs& args, const float* chunk_scales, int64_t row,
                                 int rows, float (*values)[kTileRows]) {
  for (int r = threadIdx.x % 32; r < rows; r += 32) {
    const float chunk_scale = chunk_scales == nullptr ? 1.0f : chunk_scales[row + r];
    int first = 0;
    float best = values[0][r];
    for (int tile = 1; tile <= args.num_tiles; ++tile) {
      if (tile < args.num_tiles && args.question[tile] == args.question[first]) {
        best = MaxOrNan(best, values[tile][r]);
        continue;
      }
      values[first][r] = best * chunk_scale * args.scale;
      if (tile == args.num_tiles) break;
      first = tile;
      best = values[tile][r];
    }
  }
}

// Best of chunks begin … end-1 of the tile to every question's score of a part.
__device__ inline void ScorePart(const PassArgs& args, int64_t column, int begin, int end,
                                 const float (*values)[kTileRows]) {
  for (int tile = 0; tile < args.num_tiles; ++tile) {
    if (tile > 0 && args.question[tile] == args.question[tile - 1]) continue;
    float best = kNoScore;
    for (int r = begin; r < end; ++r) best = MaxOrNan(best, values[tile][r]);
    AtomicMaxOrNan(args.scores + args.question[tile] * args.score_stride + column, best);
  }
}

__device__ inline void Finish(const PassArgs& args, PassShared& shared) {
  const int lane = threadIdx.x % 32;
  WaitForPrerequisites();
  StageCursor at;
  int64_t part = 0;
  for (TileCursor tile(args); tile.Next(); at.Advance(2)) {
    const RoutingSegment& segment = tile.segment();
    if (tile.new_segment()) part = FindPart(segment, tile.row());
    BarrierWait(SharedAddress(&shared.values_full[at.stage]), at.phase);
    float(*values)[kTileRows] = shared.values[at.stage];
    FoldTiles(args, segment.scales, tile.row(), tile.rows(), values);
    __syncwarp();
    const int64_t stop = tile.row() + tile.rows();
    for (;;) {  // 32 parts at a time, until one ends behind the tile
      const bool exists = part + lane < segment.num_parts;
      const int64_t begin = exists ? segment.part_begin[part + lane] : stop;
      const int64_t end = exists ? segment.part_begin[part + lane + 1] : stop + 1;
      const int64_t low = max(begin, tile.row());
      const int64_t high = min(end, stop);
      if (low < high) {
        ScorePart(args, segment.first_part + part + lane, static_cast<int>(low - tile.row()),
                  static_cast<int>(high - tile.row()), values);
      }
      const int ended = __popc(__ballot_sync(~0u, end <= stop));
      part += ended;
      if (ended < 32) break;
    }
    __syncwarp();
    if (lane == 0) BarrierArrive(SharedAddress(&shared.values_empty[at.stage]));
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kPassThreads, 1)
    RoutingPassKernel(const __grid_constant__ PassArgs args) {
  extern __shared__ __align__(128) char memory[];
  PassShared& shared = *reinterpret_cast<PassShared*>(memory);
  char* packed = memory + sizeof(PassShared);
  const uint32_t stages = SharedAddress(packed + args.packed_bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < args.num_stages; ++i) {
      BarrierInit(SharedAddress(&shared.stage_full[i]), Shape::kBulk ? 1 : 32 * kProducerWarps);
      BarrierInit(SharedAddress(&shared.stage_empty[i]), kConsumerWarps);
    }
    for (int i = 0; i < 2; ++i) {
      BarrierInit(SharedAddress(&shared.values_full[i]), kConsumerWarps);
      BarrierInit(SharedAddress(&shared.values_empty[i]), 1);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (warp < kConsumerWarps) {
    Consume<Shape>(args, shared, packed, stages);
  } else if (warp < kConsumerWarps + kProducerWarps) {
    Produce<Shape>(args, shared, stages);
  } else {
    Finish(args, shared);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_PASS_CUH_
