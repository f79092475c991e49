// Hopper's kernel of products of a few rows: one block a multiprocessor takes a run of weight rows,
// which lie together, and a warp that does nothing else keeps a ring of slices of them full, from
// before the kernel ahead in the stream has ended. It lets the next kernel's blocks come when it
// has asked for its last slice: earlier, they would crowd on the multiprocessors that are free.
#include <algorithm>

#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/skinny.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = kSkinnyThreads + kWarp;
constexpr int kSliceColumns = 1024;
constexpr int kSliceSteps = kSliceColumns / kStepColumns;
constexpr int kWarpSteps = kSliceSteps / kSkinnyWarps;  // of a slice, a warp's
// The quarters of a warp that read together then fall into different banks.
constexpr int kSlotRowBytes = kSliceColumns * 2 + 64;
// One block a multiprocessor, and room beside it for attention's.
constexpr int kRingBytes = 120'000;
constexpr int kMaxStages = 12;
// Steps of x that a warp keeps in registers; a wider x is read again for every tile.
constexpr int kMostHeld = 16;

// The block's outputs, in tiles of about the same size.
template <SkinnyThen kThen>
struct Tiles {
  static constexpr int kPart = kRowsOfOutput<kThen>;

  __device__ explicit Tiles(const SkinnyArgs& args) {
    const int64_t width = args.out_features / kPart;
    begin = width * blockIdx.x / gridDim.x;
    outs = static_cast<int>(width * (blockIdx.x + 1) / gridDim.x - begin);
    count = (outs * kPart + kTileRows - 1) / kTileRows;
    num_slices = static_cast<int>((args.in_features + kSliceColumns - 1) / kSliceColumns);
    slot_bytes = (outs + count - 1) / count * kPart * kSlotRowBytes;
    stages = min(kRingBytes / slot_bytes, kMaxStages);
  }
  __device__ int First(int tile) const { return outs * tile / count; }
  __device__ int Outs(int tile) const { return First(tile + 1) - First(tile); }

  int64_t begin;
  int outs;
  int count;
  int num_slices;
  int slot_bytes;
  int stages;
};

struct Ring {
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
};

struct Place {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    phase ^= 1;
  }
};

// Of slice `index` of the block's, tile by tile: where a lane's row begins, and how many bytes it
// has; 0 for lanes without a row.
template <SkinnyThen kThen>
__device__ __forceinline__ uint32_t FindRow(const SkinnyArgs& args, const Tiles<kThen>& tiles,
                                            int index, int lane, const uint8_t** from) {
  const int tile = index / tiles.num_slices;
  if (tile >= tiles.count) return 0;
  const int outs = tiles.Outs(tile);
  if (lane >= outs * Tiles<kThen>::kPart) return 0;
  const int64_t column = int64_t{index % tiles.num_slices} * kSliceColumns;
  int64_t row = tiles.begin + tiles.First(tile) + lane;
  if (Tiles<kThen>::kPart == 2 && lane >= outs) row += args.out_features / 2 - outs;
  *from = static_cast<const uint8_t*>(args.w) + (row * args.in_features + column) * 2;
  const int64_t left = args.in_features - column;
  return static_cast<uint32_t>(left < kSliceColumns ? left : kSliceColumns) * 2;
}

template <SkinnyThen kThen>
__device__ void Produce(const SkinnyArgs& args, const Tiles<kThen>& tiles, int lane, uint32_t slots,
                        Ring& ring) {
  const int slices = tiles.count * tiles.num_slices;
  const auto copy = [&](int index, int stage) {
    const uint8_t* from = nullptr;
    const uint32_t bytes = FindRow(args, tiles, index, lane, &from);
    const uint32_t full = SharedAddress(&ring.full[stage]);
    const int rows = tiles.Outs(index / tiles.num_slices) * Tiles<kThen>::kPart;
    if (lane == 0) BarrierExpect(full, bytes * rows);
    __syncwarp();
    if (bytes != 0) {
      CopyBulk(slots + stage * tiles.slot_bytes + lane * kSlotRowBytes, from, bytes, full);
    }
  };
  int index = 0;
  for (; index < min(tiles.stages, slices); ++index) copy(index, index);
  Place place;
  for (; index < slices; ++index) {
    BarrierWait(SharedAddress(&ring.empty[place.stage]), place.phase);
    copy(index, place.stage);
    place.Advance(tiles.stages);
  }
  AllowDependents();
}

// x of one warp and lane: its steps, of the row that the lane stands for.
template <SkinnyInput kInput>
struct XRow {
  const void* x;
  const float* norm;
  int64_t at;
  int num_steps;
  bool real;

  __device__ XRow(const SkinnyArgs& args, int lane)
      : x(args.x),
        norm(args.norm + 8 * (lane % 4)),
        num_steps(static_cast<int>(args.in_features / kStepColumns)),
        real(lane / 4 < args.rows) {
    at = (real ? lane / 4 : 0) * args.in_features + 8 * (lane % 4);
  }
  __device__ __forceinline__ uint4 Load(int step, float& squares) const {
    if (!real || step >= num_steps) return {0, 0, 0, 0};
    const int column = step * kStepColumns;
    return LoadX<kInput>(x, at + column, norm + column, squares);
  }
};

// A slice's products for steps `first`, first + 8, … of the row.
__device__ __forceinline__ void MultiplySlice(const char* low, const char* high, int first,
                                              int num_steps, const uint4 (&x)[kWarpSteps],
                                              float (&sums)[4], float (&odd)[4]) {
#pragma unroll
  for (int u = 0; u < kWarpSteps; ++u) {
    if (first + u * kSkinnyWarps >= num_steps) break;
    const int at = u * kSkinnyWarps * kStepColumns * 2;
    MultiplyStep(*reinterpret_cast<const uint4*>(low + at),
                 *reinterpret_cast<const uint4*>(high + at), x[u], sums, odd);
  }
}

// The warps that multiply. kHeld: steps of x kept in registers, 0 when there are too many.
template <SkinnyThen kThen, SkinnyInput kInput, int kHeld>
__device__ void Consume(const SkinnyArgs& args, const Tiles<kThen>& tiles, const char* slots,
                        Ring& ring, SkinnySums (&sums_of)[2], SkinnySquares& squares_of) {
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  constexpr int kSlicesHeld = kHeld / kWarpSteps;
  if (kInput == SkinnyInput::kNormedFloat32) {
    for (int i = threadIdx.x * 8; i < args.in_features; i += kSkinnyThreads * 8) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(args.norm + i));
    }
  }
  WaitForPrerequisites();
  const XRow<kInput> row(args, lane);
  float squares = 0.0f;
  uint4 held[kSlicesHeld > 0 ? kSlicesHeld : 1][kWarpSteps];
#pragma unroll
  for (int s = 0; s < (kSlicesHeld > 0 ? kSlicesHeld : 1); ++s) {
#pragma unroll
    for (int u = 0; u < kWarpSteps; ++u) {
      held[s][u] = row.Load(s * kSliceSteps + u * kSkinnyWarps + warp, squares);
    }
  }
  Place place;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int outs = tiles.Outs(tile);
    const int g = lane / 4;
    const int low_row = min(g, outs - 1);
    const int high_row = Tiles<kThen>::kPart == 2 ? outs + low_row : min(g + 8, outs - 1);
    const int within = (warp * kStepColumns + 8 * (lane % 4)) * 2;
    const int64_t first = tiles.begin + tiles.First(tile);
    const bool finishes = threadIdx.x < kTileRows * kSkinnyRows;
    const float before = finishes ? LoadBefore<kThen>(args, first, outs) : 0.0f;
    float sums[4] = {};
    float odd[4] = {};
    const auto multiply = [&](int slice, const uint4 (&x)[kWarpSteps]) {
      BarrierWait(SharedAddress(&ring.full[place.stage]), place.phase);
      const char* slot = slots + place.stage * tiles.slot_bytes + within;
      MultiplySlice(slot + low_row * kSlotRowBytes, slot + high_row * kSlotRowBytes,
                    slice * kSliceSteps + warp, row.num_steps, x, sums, odd);
      __syncwarp();
      if (lane == 0) BarrierArrive(SharedAddress(&ring.empty[place.stage]));
      place.Advance(tiles.stages);
    };
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int s = 0; s < kSlicesHeld; ++s) {
        if (s < tiles.num_slices) multiply(s, held[s]);
      }
    } else {
      for (int s = 0; s < tiles.num_slices; ++s) {
        uint4 now[kWarpSteps];
        float again = 0.0f;  // rows are squared once
        const bool wraps = s + 1 == tiles.num_slices;
        const int next = wraps ? 0 : s + 1;
#pragma unroll
        for (int u = 0; u < kWarpSteps; ++u) now[u] = held[0][u];
#pragma unroll
        for (int u = 0; u < kWarpSteps; ++u) {
          held[0][u] = row.Load(next * kSliceSteps + u * kSkinnyWarps + warp,
                                tile == 0 && !wraps ? squares : again);
        }
        multiply(s, now);
      }
    }
    StoreSums(sums, odd, warp, lane, sums_of[tile % 2]);
    if (kInput == SkinnyInput::kNormedFloat32 && tile == 0) {
      StoreSquares(squares, warp, lane, squares_of);
    }
    NamedBarrier(1, kSkinnyThreads);
    if (finishes) FinishTile<kThen>(args, first, outs, before, sums_of[tile % 2], squares_of);
  }
}

template <SkinnyThen kThen, SkinnyInput kInput, int kHeld>
__global__ void __launch_bounds__(kThreads, 2) StreamKernel(SkinnyArgs args) {
  extern __shared__ __align__(128) char slots[];
  __shared__ Ring ring;
  __shared__ SkinnySums sums[2];
  __shared__ SkinnySquares squares;
  const Tiles<kThen> tiles(args);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxStages; ++i) {
      BarrierInit(SharedAddress(&ring.full[i]), 1);
      BarrierInit(SharedAddress(&ring.empty[i]), kSkinnyWarps);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x >= kSkinnyThreads) {
    Produce(args, tiles, threadIdx.x % kWarp, SharedAddress(slots), ring);
  } else {
    Consume<kThen, kInput, kHeld>(args, tiles, slots, ring, sums, squares);
  }
}

template <SkinnyThen kThen, SkinnyInput kInput, int kHeld>
cudaError_t Launch(const SkinnyArgs& args, cudaStream_t stream) {
  const auto kernel = StreamKernel<kThen, kInput, kHeld>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes);
  int device = 0;
  int multiprocessors = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  const int64_t outs = args.out_features / kRowsOfOutput<kThen>;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(multiprocessors, outs));
  return LaunchDependentWith(kRingBytes, kernel, dim3(blocks), dim3(kThreads), stream, args);
}

template <SkinnyThen kThen, SkinnyInput kInput>
cudaError_t LaunchHeld(const SkinnyArgs& args, cudaStream_t stream) {
  const int64_t slices = (args.in_features + kSliceColumns - 1) / kSliceColumns;
  if (slices * kWarpSteps <= 12) return Launch<kThen, kInput, 12>(args, stream);
  if (slices * kWarpSteps <= kMostHeld) return Launch<kThen, kInput, kMostHeld>(args, stream);
  return Launch<kThen, kInput, 0>(args, stream);
}

template <SkinnyThen kThen>
cudaError_t LaunchThen(const SkinnyArgs& args, cudaStream_t stream) {
  if (args.norm != nullptr) return LaunchHeld<kThen, SkinnyInput::kNormedFloat32>(args, stream);
  return args.x_half ? LaunchHeld<kThen, SkinnyInput::kHalf>(args, stream)
                     : LaunchHeld<kThen, SkinnyInput::kFloat32>(args, stream);
}

}  // namespace

cudaError_t SkinnyStream(const SkinnyArgs& args, cudaStream_t stream) {
  switch (args.then) {
    case SkinnyThen::kStore:
      return LaunchThen<SkinnyThen::kStore>(args, stream);
    case SkinnyThen::kAdd:
      return LaunchThen<SkinnyThen::kAdd>(args, stream);
    case SkinnyThen::kSiluMul:
      return LaunchThen<SkinnyThen::kSiluMul>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace msa::kernels::cuda
