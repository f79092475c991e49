// Elements of K and V in registers made bfloat16: int8 and fp8 steps exactly, their scales stay
// apart; float32 rounded.
#ifndef MSA_KERNELS_CUDA_DECODE_WIDEN_CUH_
#define MSA_KERNELS_CUDA_DECODE_WIDEN_CUH_

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {

// Eight elements as they are stored. kBytes: room for an element, 2 or 4; where it is 2, float32 is
// rounded on the way.
template <int kBytes>
struct RawChunk {
  uint4 part[kBytes / 2];
};

__device__ __forceinline__ uint4 RoundEight(uint4 a, uint4 b) {
  return {PackBFloat16(__uint_as_float(a.x), __uint_as_float(a.y)),
          PackBFloat16(__uint_as_float(a.z), __uint_as_float(a.w)),
          PackBFloat16(__uint_as_float(b.x), __uint_as_float(b.y)),
          PackBFloat16(__uint_as_float(b.z), __uint_as_float(b.w))};
}

// Two int8, at bits 0 … 7 and 16 … 23 of `spread` under bytes of 0x43, to bfloat16, exactly: with
// the sign bit s and the other seven bits m, (128 + m) - (128 + 128 s), both of which are bfloat16
// with their bits in plain sight.
__device__ __forceinline__ uint32_t WidenInt8Pair(uint32_t spread) {
  const uint32_t value = spread & 0xff7fff7fu;
  const uint32_t offset = spread & 0xff80ff80u;
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&value),
                                        *reinterpret_cast<const __nv_bfloat162*>(&offset));
  return *reinterpret_cast<const uint32_t*>(&result);
}

__device__ __forceinline__ uint32_t WidenFloat8Pair(uint32_t bytes) {
  const __half2 half(
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(bytes), __NV_E4M3));
  const float2 x = __half22float2(half);
  return PackBFloat16(x.x, x.y);
}

template <int kBytes, int kRows, int kChunks, class Widen>
__device__ __forceinline__ void ForChunks(RawChunk<kBytes> (&chunks)[kRows][kChunks],
                                          const Widen& widen) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kChunks; ++j) widen(chunks[i][j]);
  }
}

// Eight int8 or fp8 as eight bfloat16.
__device__ __forceinline__ uint4 WidenInt8(uint32_t low, uint32_t high) {
  return {WidenInt8Pair(__byte_perm(low, 0x43434343u, 0x4140)),
          WidenInt8Pair(__byte_perm(low, 0x43434343u, 0x4342)),
          WidenInt8Pair(__byte_perm(high, 0x43434343u, 0x4140)),
          WidenInt8Pair(__byte_perm(high, 0x43434343u, 0x4342))};
}
__device__ __forceinline__ uint4 WidenFloat8(uint32_t low, uint32_t high) {
  return {WidenFloat8Pair(low & 0xffffu), WidenFloat8Pair(low >> 16),
          WidenFloat8Pair(high & 0xffffu), WidenFloat8Pair(high >> 16)};
}

// The chunks' first parts become eight bfloat16.
template <int kBytes, int kRows, int kChunks>
__device__ __forceinline__ void WidenChunks(ElementType type,
                                            RawChunk<kBytes> (&chunks)[kRows][kChunks]) {
  if (type == ElementType::kInt8) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      chunk.part[0] = WidenInt8(chunk.part[0].x, chunk.part[0].y);
    });
  } else if (type == ElementType::kFloat8E4M3) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      chunk.part[0] = WidenFloat8(chunk.part[0].x, chunk.part[0].y);
    });
  } else if (kBytes == 4 && type == ElementType::kFloat32) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      chunk.part[0] = RoundEight(chunk.part[0], chunk.part[kBytes / 2 - 1]);
    });
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_WIDEN_CUH_
