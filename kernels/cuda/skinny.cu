// Weights are the rows of the tensor cores' products and the batch their columns, of which there
// are eight: one to eight rows cost the same. A block takes 16 weight rows, its warps share their
// columns out, 32 at a time each, straight from memory into the registers that the products take;
// a product does not mind in which order its inner dimension is taken as long as both operands
// agree, so lane 4g+c reads 16 bytes, columns 8c … 8c+7, of weight rows g and g+8 and of row g of
// x.
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/skinny.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileRows = 16;
constexpr int kStepColumns = 32;
constexpr int kDepth = 4;  // steps of weights under way in a warp

// The warps' shares of a tile, [warp][weight row][row of x], then of the squares of x.
struct Shares {
  float sums[kWarps][kTileRows][kSkinnyRows];
  float squares[kWarps][kSkinnyRows];
};

enum class Input { kFloat32, kNormedFloat32, kHalf };

// Columns column … column + 7 of a row of x as a product's operand, times the norm's weights where
// there is one; adds the squares of x.
template <Input kInput>
__device__ __forceinline__ uint4 LoadX(const void* x, int64_t column, const float* norm,
                                       float& squares) {
  if constexpr (kInput == Input::kHalf) {
    return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(x) + column);
  }
  const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(x) + column);
  float4 a = from[0];
  float4 b = from[1];
  if constexpr (kInput == Input::kNormedFloat32) {
    squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
    squares += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
    const float4 p = __ldg(reinterpret_cast<const float4*>(norm));
    const float4 q = __ldg(reinterpret_cast<const float4*>(norm + 4));
    a = {a.x * p.x, a.y * p.y, a.z * p.z, a.w * p.w};
    b = {b.x * q.x, b.y * q.y, b.z * q.z, b.w * q.w};
  }
  return {PackBFloat16(a.x, a.y), PackBFloat16(a.z, a.w), PackBFloat16(b.x, b.y),
          PackBFloat16(b.z, b.w)};
}

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

template <SkinnyThen kThen>
__device__ __forceinline__ void Finish(const SkinnyArgs& args, const Shares& shares) {
  constexpr bool kPairs = kThen == SkinnyThen::kSiluMul;
  constexpr int kOuts = kPairs ? kTileRows / 2 : kTileRows;
  const int row = threadIdx.x % kOuts;
  const int n = threadIdx.x / kOuts;
  if (n >= args.rows) return;
  const int64_t width = kPairs ? args.out_features / 2 : args.out_features;
  const int64_t column = int64_t{blockIdx.x} * kOuts + row;
  if (column >= width) return;
  float factor = 1.0f;
  if (args.norm != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) squares += shares.squares[w][n];
    factor = 1.0f / sqrtf(squares / static_cast<float>(args.in_features) + args.eps);
  }
  const auto value = [&](int of_tile, int64_t weight_row) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shares.sums[w][of_tile][n];
    return sum * factor + (args.bias != nullptr ? args.bias[weight_row] : 0.0f);
  };
  const int64_t at = n * width + column;
  if constexpr (kPairs) {
    const float gate = value(row, column);
    const float up = value(row + 8, width + column);
    const float gated = gate / (1.0f + expf(-gate)) * up;
    if (args.y_half) {
      static_cast<__nv_bfloat16*>(args.y)[at] = __float2bfloat16_rn(gated);
    } else {
      static_cast<float*>(args.y)[at] = gated;
    }
  } else if constexpr (kThen == SkinnyThen::kAdd) {
    static_cast<float*>(args.y)[at] += value(row, column);
  } else {
    static_cast<float*>(args.y)[at] = value(row, column);
  }
}

template <SkinnyThen kThen, Input kInput>
__global__ void __launch_bounds__(kThreads, 3) SkinnyKernel(SkinnyArgs args) {
  __shared__ Shares shares;
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
  for (int u = 0; u < kDepth; ++u) weights.Load(u, warp + u * kWarps);
  AllowDependents();
  WaitForPrerequisites();
  const bool real = group < args.rows;
  const int64_t x_row = (real ? group : 0) * args.in_features + 8 * quad;
  const float* norm = args.norm + 8 * quad;
  float sums[4] = {};
  float odd[4] = {};  // a second chain of products hides their latency
  float squares = 0.0f;
  for (int step = warp; step < num_steps; step += kDepth * kWarps) {
    uint4 b[kDepth];
#pragma unroll
    for (int u = 0; u < kDepth; ++u) {
      const int at = step + u * kWarps;
      b[u] = {0, 0, 0, 0};
      if (real && at < num_steps) {
        b[u] = LoadX<kInput>(args.x, x_row + at * kStepColumns, norm + at * kStepColumns, squares);
      }
    }
#pragma unroll
    for (int u = 0; u < kDepth; ++u) {
      const uint4 l = weights.low[u];
      const uint4 h = weights.high[u];
      MmaBFloat16(sums, {l.x, h.x, l.y, h.y}, {b[u].x, b[u].y});
      MmaBFloat16(odd, {l.z, h.z, l.w, h.w}, {b[u].z, b[u].w});
    }
#pragma unroll
    for (int u = 0; u < kDepth; ++u) weights.Load(u, step + (kDepth + u) * kWarps);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    shares.sums[warp][group + i / 2 * 8][2 * quad + i % 2] = sums[i] + odd[i];
  }
  if constexpr (kInput == Input::kNormedFloat32) {
    squares += __shfl_xor_sync(0xffffffffu, squares, 1);
    squares += __shfl_xor_sync(0xffffffffu, squares, 2);
    if (quad == 0) shares.squares[warp][group] = squares;
  }
  __syncthreads();
  if (threadIdx.x < kTileRows * kSkinnyRows) Finish<kThen>(args, shares);
}

template <SkinnyThen kThen, Input kInput>
cudaError_t Launch(const SkinnyArgs& args, cudaStream_t stream) {
  const int64_t tile = kThen == SkinnyThen::kSiluMul ? 2 * 8 : kTileRows;
  const auto tiles = static_cast<unsigned>((args.out_features + tile - 1) / tile);
  return LaunchDependent(SkinnyKernel<kThen, kInput>, dim3(tiles), dim3(kThreads), stream, args);
}

template <SkinnyThen kThen>
cudaError_t LaunchThen(const SkinnyArgs& args, cudaStream_t stream) {
  if (args.norm != nullptr) return Launch<kThen, Input::kNormedFloat32>(args, stream);
  return args.x_half ? Launch<kThen, Input::kHalf>(args, stream)
                     : Launch<kThen, Input::kFloat32>(args, stream);
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
