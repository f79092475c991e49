// The sums of the routing pass for many rows, by the format of the keys. Only for routing_wide.cu.
#ifndef MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_wide.h"
#include "kernels/cuda/wgmma_wide.cuh"

namespace msa::kernels::cuda {

template <KeyFormat kFormat>
using Sum = std::conditional_t<kFormat == KeyFormat::kInt8, int32_t, float>;

template <KeyFormat kFormat, int kTiles>
__device__ __forceinline__ void Multiply(Sum<kFormat> (&sums)[4 * kTiles], uint64_t a, uint64_t b,
                                         bool add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kFormat == KeyFormat::kInt8) ProductInt8<kTiles>(sums, a, b, add);
  if constexpr (kFormat == KeyFormat::kBFloat16) ProductBFloat16<kTiles>(sums, a, b, add);
#endif
}

// fp8 keys: a slice of a warp's 16 rows at `keys`, widened to float16 in registers, times both
// halves of the columns' slice. Begins the products and commits them.
template <int kTiles>
__device__ __forceinline__ void MultiplyWidened(float (&sums)[4 * kTiles], uint32_t keys,
                                                uint64_t b, bool add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr uint64_t kHalfStep = kTiles * kColumnsOfTile * kWideSliceBytes / 16;
  const int lane = threadIdx.x % 32;
  const uint32_t row = keys + lane % 16 * kWideSliceBytes;
  uint32_t wide[8][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t bytes[4];
    LoadMatrix4(bytes, row + ((2 * i + lane / 16) ^ (lane & 7)) * 16);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wide[2 * i + j / 2][j % 2] = WidenFloat8(bytes[j]);
      wide[2 * i + j / 2][j % 2 + 2] = WidenFloat8(bytes[j] >> 16);
    }
  }
  BeginProducts();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    ProductHalf<kTiles>(sums, wide[i], b + i / 4 * kHalfStep + 2 * (i % 4), add || i > 0);
  }
  CommitProducts();
#endif
}

// Element i of tile j of rows, in units of its column's scale. Pieces lie in tiles side by side,
// the highest first, and come together as in Products of routing_products.cuh, to the bit.
template <KeyFormat kFormat, int kPieces, int kSums>
__device__ __forceinline__ float Joined(const Sum<kFormat> (&sums)[kSums], int j, int i) {
  float value = static_cast<float>(sums[4 * kPieces * j + i]);
#pragma unroll
  for (int p = 1; p < kPieces; ++p) {
    const auto lower = static_cast<float>(sums[4 * (kPieces * j + p) + i]);
    value = kFormat == KeyFormat::kInt8 ? fmaf(256.0f, value, lower) : value + lower;
  }
  return value;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_
