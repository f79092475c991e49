// Ampere's kernel of products of a few rows: a block takes 16 weight rows, straight from memory
// into the registers that the products take.
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/skinny.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kDepth = 4;  // steps of weights under way in a warp

// A lane's two weight rows: kDepth steps under way.
struct Weights {
  const uint8_t* from_low;
  const uint8_t* from_high;
  int num_steps;
  uint4 low[kDepth];
  uint4 high[kDepth];

  // Zeros beyond the last step.
  __device__ __forceinline__ void Load(int u, int step) {
    low[u] = high[u] = {0, 0, 0, 0};
    if (step >= num_steps) return;
    low[u] = LoadStreamed16(from_low + int64_t{step} * kStepColumns * 2);
    high[u] = LoadStreamed16(from_high + int64_t{step} * kStepColumns * 2);
  }
};

// The weight row that lane row `row` (0 … 15) of a tile stands for.
template <SkinnyThen kThen>
__device__ __forceinline__ int64_t WeightRow(int64_t tile, int row, int64_t out_features) {
  if (kThen == SkinnyThen::kSiluMul) {
    return row / 8 * (out_features / 2) + tile * 8 + row % 8;
  }
  return tile * kTileRows + row;
}

template <SkinnyThen kThen, SkinnyInput kInput>
__global__ void __launch_bounds__(kSkinnyThreads, 3) SkinnyKernel(SkinnyArgs args) {
  __shared__ SkinnySums shares;
  __shared__ SkinnySquares of_squares;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int num_steps = static_cast<int>(args.in_features / kStepColumns);
  const auto row_of = [&](int row) {
    const int64_t at = WeightRow<kThen>(blockIdx.x, row, args.out_features);
    const int64_t last = args.out_features - 1;
    return static_cast<const uint8_t*>(args.w) +
           ((at < last ? at : last) * args.in_features + 8 * quad) * 2;
  };
  Weights weights = {row_of(group), row_of(group + 8), num_steps, {}, {}};
#pragma unroll
  for (int u = 0; u < kDepth; ++u) weights.Load(u, warp + u * kSkinnyWarps);
  AllowDependents();
  WaitForPrerequisites();
  XSteps<kInput, kDepth> steps(args, warp, lane);
  float sums[4] = {};
  float odd[4] = {};
  float squares = 0.0f;
  for (int step = 0; step * kSkinnyWarps + warp < num_steps; step += kDepth) {
    uint4 b[kDepth];
    steps.Ask(step);
    steps.Take(b, squares);
#pragma unroll
    for (int u = 0; u < kDepth; ++u) {
      MultiplyStep(weights.low[u], weights.high[u], b[u], sums, odd);
    }
#pragma unroll
    for (int u = 0; u < kDepth; ++u) weights.Load(u, warp + (step + kDepth + u) * kSkinnyWarps);
  }
  StoreSums(sums, odd, warp, lane, shares);
  if constexpr (kInput == SkinnyInput::kNormedFloat32) {
    StoreSquares(squares, warp, lane, of_squares);
  }
  __syncthreads();
  if (threadIdx.x >= kTileRows * kSkinnyRows) return;
  constexpr int kOuts = kTileRows / kRowsOfOutput<kThen>;
  const int64_t first = int64_t{blockIdx.x} * kOuts;
  const int64_t left = args.out_features / kRowsOfOutput<kThen> - first;
  const int count = static_cast<int>(left < kOuts ? left : kOuts);
  FinishTile<kThen>(args, first, count, LoadBefore<kThen>(args, first, count), shares, of_squares);
}

template <SkinnyThen kThen, SkinnyInput kInput>
cudaError_t Launch(const SkinnyArgs& args, cudaStream_t stream) {
  const auto tiles = static_cast<unsigned>((args.out_features + kTileRows - 1) / kTileRows);
  return LaunchDependent(SkinnyKernel<kThen, kInput>, dim3(tiles), dim3(kSkinnyThreads), stream,
                         args);
}

template <SkinnyThen kThen>
cudaError_t LaunchThen(const SkinnyArgs& args, cudaStream_t stream) {
  if (args.norm != nullptr) return Launch<kThen, SkinnyInput::kNormedFloat32>(args, stream);
  return args.x_half ? Launch<kThen, SkinnyInput::kHalf>(args, stream)
                     : Launch<kThen, SkinnyInput::kFloat32>(args, stream);
}

bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool ServesSkinny(const SkinnyArgs& args) {
  return args.rows <= kSkinnyRows && args.in_features % kStepColumns == 0 &&
         args.in_features < (int64_t{1} << 28) && Aligned16(args.w) && Aligned16(args.x) &&
         Aligned16(args.norm) && !(args.x_half && args.norm != nullptr) &&
         (args.then != SkinnyThen::kSiluMul || args.out_features % 16 == 0);
}

cudaError_t SkinnyLinear(const SkinnyArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.out_features == 0) return cudaSuccess;
  if (!ServesSkinny(args)) return cudaErrorInvalidValue;
  if (ComputeMajor() == 9) return SkinnyStream(args, stream);
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
