// The shared-memory layout that the products of sm_80 and later read, and what ptx.cuh lacks for
// it: rows of bfloat16, whose 16-byte chunk c of row r lies at chunk c ^ (r % 8), so that eight
// rows at one column fall into different banks.
#ifndef MSA_KERNELS_CUDA_MMA_CUH_
#define MSA_KERNELS_CUDA_MMA_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace msa::kernels::cuda {

inline constexpr int kChunkBytes = 16;
inline constexpr int kChunkElements = 8;  // bfloat16

// Byte offset of chunk `chunk` of row `row`.
template <int kRowBytes>
__device__ __forceinline__ uint32_t ChunkOffset(int row, int chunk) {
  return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row & 7)) * kChunkBytes));
}

// As LoadMatrix4, each matrix transposed.
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// The lower half is x.
__device__ __forceinline__ uint32_t PackBFloat16(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float LowFloat(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighFloat(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Whether one of a pair of bfloat16 is NaN or infinite.
__device__ __forceinline__ bool HasNonFinite(uint32_t pair) {
  return (pair & 0x7f80u) == 0x7f80u || (pair & 0x7f800000u) == 0x7f800000u;
}
__device__ __forceinline__ bool HasNonFinite(uint4 x) {
  return HasNonFinite(x.x) || HasNonFinite(x.y) || HasNonFinite(x.z) || HasNonFinite(x.w);
}

__device__ __forceinline__ uint32_t FiniteOrZero(uint32_t pair) {
  if ((pair & 0x7f80u) == 0x7f80u) pair &= 0xffff0000u;
  if ((pair & 0x7f800000u) == 0x7f800000u) pair &= 0x0000ffffu;
  return pair;
}
__device__ __forceinline__ uint4 FiniteOrZero(uint4 x) {
  return {FiniteOrZero(x.x), FiniteOrZero(x.y), FiniteOrZero(x.z), FiniteOrZero(x.w)};
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_MMA_CUH_
