// Hopper's kernel of products of a few rows: one block a multiprocessor takes a run of weight rows,
// which lie together, and warps that do nothing else keep a ring of slices of them full, from
// before the kernel ahead in the stream has ended. They let the next kernel's blocks come when they
// have asked for the last slice: earlier, they would crowd on the multiprocessors that are free.
#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/skinny.cuh"

namespace msa::kernels::cuda {
namespace {

// A warp asks for its lanes' copies one by one: alone it would be slower than memory.
constexpr int kCopyWarps = 2;
constexpr int kThreads = kSkinnyThreads + kCopyWarps * kWarp;
constexpr int kSliceColumns = 1024;
constexpr int kSliceSteps = kSliceColumns / kStepColumns;
constexpr int kWarpSteps = kSliceSteps / kSkinnyWarps;  // of a slice, a warp's
// The quarters of a warp that read together then fall into different banks.
constexpr int kSlotRowBytes = kSliceColumns * 2 + 64;
// One block a multiprocessor, and room beside it for attention's.
constexpr int kRingBytes = 120'000;
// Of them on their way while the block waits for x: x would queue behind more.
constexpr int kAheadBytes = 45'000;
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
  volatile bool has_x;
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

// A copying warp's rows of slice `index` of the block's, tile by tile, a lane each.
template <SkinnyThen kThen>
struct SliceRows {
  __device__ SliceRows(const SkinnyArgs& args, const Tiles<kThen>& tiles, int index, int warp,
                       int lane) {
    const int tile = index / tiles.num_slices;
    const int outs = tiles.Outs(tile);
    const int all = outs * Tiles<kThen>::kPart;
    const int first = all * warp / kCopyWarps;
    count = all * (warp + 1) / kCopyWarps - first;
    slot_row = first + lane;
    const int64_t column = int64_t{index % tiles.num_slices} * kSliceColumns;
    int64_t row = tiles.begin + tiles.First(tile) + slot_row;
    if (Tiles<kThen>::kPart == 2 && slot_row >= outs) row += args.out_features / 2 - outs;
    from = static_cast<const uint8_t*>(args.w) + (row * args.in_features + column) * 2;
    const int64_t left = args.in_features - column;
    bytes = static_cast<int>(left < kSliceColumns ? left : kSliceColumns) * 2;
  }

  int count;
  int slot_row;
  const uint8_t* from;
  int bytes;  // of each row
};

template <SkinnyThen kThen>
__device__ void Produce(const SkinnyArgs& args, const Tiles<kThen>& tiles, uint32_t slots,
                        Ring& ring) {
  const int warp = (threadIdx.x - kSkinnyThreads) / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int slices = tiles.count * tiles.num_slices;
  const auto copy = [&](int index, int stage) {
    const SliceRows<kThen> rows(args, tiles, index, warp, lane);
    const uint32_t full = SharedAddress(&ring.full[stage]);
    if (lane == 0) BarrierExpect(full, rows.bytes * rows.count);
    __syncwarp();
    if (lane < rows.count) {
      CopyBulk(slots + stage * tiles.slot_bytes + rows.slot_row * kSlotRowBytes, rows.from,
               rows.bytes, full);
    }
  };
  const int ahead = max(1, kAheadBytes / tiles.slot_bytes);
  int index = 0;
  for (; index < min(tiles.stages, slices); ++index) {
    if (index >= ahead && !ring.has_x) BarrierWait(SharedAddress(&ring.full[index - ahead]), 0);
    copy(index, index);
  }
  Place place;
  for (; index < slices; ++index) {
    BarrierWait(SharedAddress(&ring.empty[place.stage]), place.phase);
    copy(index, place.stage);
    place.Advance(tiles.stages);
  }
  AllowDependents();
}

// A slice's products for steps `first`, first + 8, … of the row.
__device__ __forceinline__ void MultiplySlice(const char* low, const char* high, int first,
                                              int num_steps, const uint4* x, float (&sums)[4],
                                              float (&odd)[4]) {
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
  constexpr int kAtOnce = kHeld > 0 ? kHeld / 2 : kWarpSteps;
  XSteps<kInput, kAtOnce> steps(args, warp, lane);
  float squares = 0.0f;
  uint4 held[kHeld > 0 ? kHeld : 1];
  steps.Ask(0);
  if constexpr (kHeld > 0) {
    steps.Take(held, squares);
    steps.Ask(kAtOnce);
    steps.Take(held + kAtOnce, squares);
  }
  if (threadIdx.x == 0) ring.has_x = true;
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
    const auto multiply = [&](int slice, const uint4* x) {
      BarrierWait(SharedAddress(&ring.full[place.stage]), place.phase);
      const char* slot = slots + place.stage * tiles.slot_bytes + within;
      MultiplySlice(slot + low_row * kSlotRowBytes, slot + high_row * kSlotRowBytes,
                    slice * kSliceSteps + warp, steps.num_steps(), x, sums, odd);
      __syncwarp();
      if (lane == 0) BarrierArrive(SharedAddress(&ring.empty[place.stage]));
      place.Advance(tiles.stages);
    };
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int s = 0; s < kSlicesHeld; ++s) {
        if (s < tiles.num_slices) multiply(s, held + s * kWarpSteps);
      }
    } else {
      for (int s = 0; s < tiles.num_slices; ++s) {
        uint4 now[kWarpSteps];
        float again = 0.0f;  // rows are squared once
        steps.Take(now, tile == 0 ? squares : again);
        steps.Ask(s + 1 == tiles.num_slices ? 0 : (s + 1) * kWarpSteps);
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
__global__ void __launch_bounds__(kThreads, 1)
    StreamKernel(const __grid_constant__ SkinnyArgs args) {
  extern __shared__ __align__(128) char slots[];
  __shared__ Ring ring;
  __shared__ SkinnySums sums[2];
  __shared__ SkinnySquares squares;
  const Tiles<kThen> tiles(args);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxStages; ++i) {
      BarrierInit(SharedAddress(&ring.full[i]), kCopyWarps);
      BarrierInit(SharedAddress(&ring.empty[i]), kSkinnyWarps);
    }
    ring.has_x = false;
    FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x >= kSkinnyThreads) {
    Produce(args, tiles, SharedAddress(slots), ring);
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
