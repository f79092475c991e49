// What both kernels of products of a few rows share: a step's products, what is done with the
// warps' sums; of x, skinny_input.cuh. Only for skinny*.cu.
//
// Weights are the rows of the tensor cores' products and the batch their columns, of which there
// are eight: one to eight rows cost the same. Eight warps share the inner dimension out, 32 columns
// at a time: step s is warp s % 8's. A product does not mind in which order its inner dimension is
// taken as long as both operands agree, so lane 4g+c takes 16 bytes, columns 8c … 8c+7 of the step,
// of weight rows g and g+8 and of row g of x.
#ifndef MSA_KERNELS_CUDA_SKINNY_CUH_
#define MSA_KERNELS_CUDA_SKINNY_CUH_

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/skinny_input.cuh"

namespace msa::kernels::cuda {

inline constexpr int kSkinnyThreads = kSkinnyWarps * kWarp;
inline constexpr int kTileRows = 16;

// The warps' shares of a tile, [warp][weight row][row of x].
using SkinnySums = float[kSkinnyWarps][kTileRows][kSkinnyRows];
// Of the squares of x, [warp][row of x].
using SkinnySquares = float[kSkinnyWarps][kSkinnyRows];

// A step's products. The second chain hides the latency of the first.
__device__ __forceinline__ void MultiplyStep(uint4 low, uint4 high, uint4 x, float (&sums)[4],
                                             float (&odd)[4]) {
  MmaBFloat16(sums, {low.x, high.x, low.y, high.y}, {x.x, x.y});
  MmaBFloat16(odd, {low.z, high.z, low.w, high.w}, {x.z, x.w});
}

__device__ __forceinline__ void StoreSums(const float (&sums)[4], const float (&odd)[4], int warp,
                                          int lane, SkinnySums& shares) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    shares[warp][lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2] = sums[i] + odd[i];
  }
}

__device__ __forceinline__ void StoreSquares(float squares, int warp, int lane,
                                             SkinnySquares& shares) {
  squares += __shfl_xor_sync(0xffffffffu, squares, 1);
  squares += __shfl_xor_sync(0xffffffffu, squares, 2);
  if (lane % 4 == 0) shares[warp][lane / 4] = squares;
}

// Weight rows that one tile has of an output: kSiluMul takes a gate and what it gates.
template <SkinnyThen kThen>
inline constexpr int kRowsOfOutput = kThen == SkinnyThen::kSiluMul ? 2 : 1;

// What a thread is to add to: output first + row of row n of y; 0 where there is nothing.
template <SkinnyThen kThen>
__device__ __forceinline__ float LoadBefore(const SkinnyArgs& args, int64_t first, int count) {
  if constexpr (kThen != SkinnyThen::kAdd) return 0.0f;
  const int row = threadIdx.x % kTileRows;
  const int n = threadIdx.x / kTileRows;
  if (n >= args.rows || row >= count) return 0.0f;
  return static_cast<const float*>(args.y)[n * args.out_features + first + row];
}

// Outputs first … first + count - 1 from the warps' sums of a tile, whose row r is output r, or
// r % 8 of the gates and then of what they gate. `before`: LoadBefore. The block's first 128
// threads.
template <SkinnyThen kThen>
__device__ __forceinline__ void FinishTile(const SkinnyArgs& args, int64_t first, int count,
                                           float before, const SkinnySums& sums,
                                           const SkinnySquares& squares) {
  constexpr bool kPairs = kThen == SkinnyThen::kSiluMul;
  constexpr int kOuts = kTileRows / kRowsOfOutput<kThen>;
  const int row = threadIdx.x % kOuts;
  const int n = threadIdx.x / kOuts;
  if (n >= args.rows || row >= count) return;
  const int64_t width = args.out_features / kRowsOfOutput<kThen>;
  const int64_t column = first + row;
  float factor = 1.0f;
  if (args.norm != nullptr) {
    float of_row = 0.0f;
#pragma unroll
    for (int w = 0; w < kSkinnyWarps; ++w) of_row += squares[w][n];
    factor = 1.0f / sqrtf(of_row / static_cast<float>(args.in_features) + args.eps);
  }
  const auto value = [&](int of_tile, int64_t weight_row) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kSkinnyWarps; ++w) sum += sums[w][of_tile][n];
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
    static_cast<float*>(args.y)[at] = before + value(row, column);
  } else {
    static_cast<float*>(args.y)[at] = value(row, column);
  }
}

// skinny_stream.cu. REQUIRES: ServesSkinny(args), compute capability 9.0.
cudaError_t SkinnyStream(const SkinnyArgs& args, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_SKINNY_CUH_
