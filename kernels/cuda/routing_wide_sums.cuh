// The sums of the routing pass for many rows, by the format of the keys. Only for routing_wide.cu.
#ifndef MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/wgmma_wide.cuh"

namespace msa::kernels::cuda {

template <KeyFormat kFormat>
using Sum = std::conditional_t<kFormat == KeyFormat::kInt8, int32_t, float>;

template <KeyFormat kFormat, int kTiles>
__device__ __forceinline__ void Multiply(Sum<kFormat> (&sums)[4 * kTiles], uint64_t a, uint64_t b,
                                         bool add) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kFormat == KeyFormat::kInt8) ProductInt8<kTiles>(sums, a, b, add);
  if constexpr (kFormat == KeyFormat::kFloat8) ProductFloat8<kTiles>(sums, a, b, add);
  if constexpr (kFormat == KeyFormat::kBFloat16) ProductBFloat16<kTiles>(sums, a, b, add);
#endif
}

// Element i of tile j of rows, in units of its column's scale. Pieces lie in tiles side by side, the
// highest first, and come together as in Products of routing_pass.cuh.
template <KeyFormat kFormat, int kPieces, int kSums>
__device__ __forceinline__ float Joined(const Sum<kFormat> (&sums)[kSums], int j, int i) {
  float value = static_cast<float>(sums[4 * kPieces * j + i]);
#pragma unroll
  for (int p = 1; p < kPieces; ++p) {
    value = fmaf(256.0f, value, static_cast<float>(sums[4 * (kPieces * j + p) + i]));
  }
  return value;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_WIDE_SUMS_CUH_
