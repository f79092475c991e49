// Device helpers shared by the kernels: elements of any type as float, reductions over a warp and a
// block.
#ifndef MSA_KERNELS_CUDA_ELEMENTS_CUH_
#define MSA_KERNELS_CUDA_ELEMENTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/element_type.h"

namespace msa::kernels::cuda {

inline constexpr int kWarp = 32;

// Element i of `data` as stored, without any scale.
__device__ __forceinline__ float ElementAt(const void* data, ElementType type, int64_t i) {
  switch (type) {
    case ElementType::kFloat32:
      return static_cast<const float*>(data)[i];
    case ElementType::kBFloat16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case ElementType::kInt8:
      return static_cast<float>(static_cast<const int8_t*>(data)[i]);
    case ElementType::kFloat16:
      return __half2float(static_cast<const __half*>(data)[i]);
    case ElementType::kFloat8E4M3:
      return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[i]);
  }
  return 0.0f;
}

// Elements i … i + 3 as stored; i and the pointer are aligned for all four.
template <ElementType kType>
__device__ __forceinline__ float4 FourAt(const void* data, int64_t i) {
  if constexpr (kType == ElementType::kFloat32) {
    return *reinterpret_cast<const float4*>(static_cast<const float*>(data) + i);
  } else if constexpr (kType == ElementType::kBFloat16) {
    const uint2 x = *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(data) + i);
    return {__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
            __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u)};
  } else if constexpr (kType == ElementType::kInt8) {
    const char4 x = *reinterpret_cast<const char4*>(static_cast<const int8_t*>(data) + i);
    return {static_cast<float>(x.x), static_cast<float>(x.y), static_cast<float>(x.z),
            static_cast<float>(x.w)};
  } else {
    return {ElementAt(data, kType, i), ElementAt(data, kType, i + 1), ElementAt(data, kType, i + 2),
            ElementAt(data, kType, i + 3)};
  }
}

// Largest step of a scaled type: its scale is max|x| / this.
__host__ __device__ constexpr float LargestStep(ElementType type) {
  return type == ElementType::kInt8 ? 127.0f : 448.0f;
}

// Stores x as element i: rounds to nearest even; for a scaled type x is divided by `scale` first
// (steps of 0 where that is not a number: the scale says which).
__device__ __forceinline__ void StoreElement(void* data, ElementType type, int64_t i, float x,
                                             float scale) {
  switch (type) {
    case ElementType::kFloat32:
      static_cast<float*>(data)[i] = x;
      return;
    case ElementType::kBFloat16:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x);
      return;
    case ElementType::kFloat16:
      static_cast<__half*>(data)[i] = __float2half_rn(x);
      return;
    case ElementType::kInt8: {
      const float steps = rintf(__fdiv_rn(x, scale));
      static_cast<int8_t*>(data)[i] =
          isnan(steps) ? 0 : static_cast<int8_t>(fmaxf(-127.0f, fminf(steps, 127.0f)));
      return;
    }
    case ElementType::kFloat8E4M3: {
      const float steps = __fdiv_rn(x, scale);
      static_cast<__nv_fp8_storage_t*>(data)[i] =
          isnan(steps) ? 0 : __nv_cvt_float_to_fp8(steps, __NV_SATFINITE, __NV_E4M3);
      return;
    }
  }
}

// What is read once: past the L1 cache.
__device__ __forceinline__ uint4 LoadStreamed16(const uint8_t* from) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from));
  return x;
}
__device__ __forceinline__ uint2 LoadStreamed8(const uint8_t* from) {
  uint2 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
               : "=r"(x.x), "=r"(x.y)
               : "l"(from));
  return x;
}

template <class T, class Combine>
__device__ __forceinline__ T WarpReduce(T x, Combine combine) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  }
  return x;
}

__device__ __forceinline__ float WarpSum(float x) {
  return WarpReduce(x, [](float a, float b) { return a + b; });
}

// Over all threads of the block (a multiple of 32, at most 1024); every thread gets the result.
template <class Combine>
__device__ __forceinline__ float BlockReduce(float x, float neutral, Combine combine) {
  __shared__ float partial[kWarp];
  x = WarpReduce(x, combine);
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  __syncthreads();  // an earlier reduction may still be read
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : neutral;
  return WarpReduce(x, combine);
}

__device__ __forceinline__ float BlockSum(float x) {
  return BlockReduce(x, 0.0f, [](float a, float b) { return a + b; });
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ELEMENTS_CUH_
