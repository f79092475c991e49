// Names for the machine's own instructions that compute: matrix fragments and products, maxima,
// narrow numbers. sm_80 and later. PTX ISA 8.7, sections 9.7. async.cuh has those that wait.
#ifndef MSA_KERNELS_CUDA_PTX_CUH_
#define MSA_KERNELS_CUDA_PTX_CUH_

#include <cuda_fp8.h>

#include <cstdint>

namespace msa::kernels::cuda {

// Four 8 × 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void LoadMatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ inline void MmaBFloat16(float (&c)[4], const uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ inline void MmaHalf(float (&c)[4], const uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ inline void MmaInt8(int32_t (&c)[4], const uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ inline void MmaUint8Int8(int32_t (&c)[4], const uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// The larger; NaN (0x7fffffff) when either is NaN.
__device__ inline float MaxOrNan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

// *to = MaxOrNan(*to, value), with *to kNoScore or a result of this function; NaN must be
// 0x7fffffff. The order of floats is that of their bits as integers, upside down below zero.
__device__ inline void AtomicMaxOrNan(float* to, float value) {
  const int32_t bits = __float_as_int(value);
  if (bits >= 0) {
    atomicMax(reinterpret_cast<int32_t*>(to), bits);
  } else {
    atomicMin(reinterpret_cast<uint32_t*>(to), static_cast<uint32_t>(bits));
  }
}

// Two e4m3 numbers in the low bytes as float16.
__device__ __forceinline__ uint32_t WidenFloat8(uint32_t two) {
  const __half2_raw wide =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
  return wide.x | static_cast<uint32_t>(wide.y) << 16;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_PTX_CUH_
