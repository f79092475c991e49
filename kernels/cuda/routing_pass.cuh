// The tensor-core routing pass: one persistent block a multiprocessor, which reads its share of the
// chunks once through a ring of shared-memory stages.
//
//   producer warps   copy slices (kSliceBytes of every key of a tile) into the ring
//   consumer warps   tile of keys × columns; the maximum over each tile of 8 columns
//   finishing warps  a tile each in turn: times the chunk's scale, maximum over a question's tiles
//                    and a part's chunks, one atomic maximum a part and question. They wait for
//                    device memory (scales, parts) most of the time, so there are several.
#ifndef MSA_KERNELS_CUDA_ROUTING_PASS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_PASS_CUH_

#include <type_traits>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/routing_cursor.cuh"
#include "kernels/cuda/routing_finish.cuh"
#include "kernels/cuda/routing_float_products.cuh"
#include "kernels/cuda/routing_pass.h"
#include "kernels/cuda/routing_products.cuh"

namespace msa::kernels::cuda {

constexpr int kProducerWarps = 2;
constexpr int kFinishWarps = 2;
constexpr int kPassThreads = 32 * (kConsumerWarps + kProducerWarps + kFinishWarps);
constexpr int kMaxStages = 8;

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
