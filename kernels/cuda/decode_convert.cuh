// Tiles of the decode kernel made bfloat16 in place: int8 and fp8 steps exactly, their scales stay
// apart; float32 rounded.
#ifndef MSA_KERNELS_CUDA_DECODE_CONVERT_CUH_
#define MSA_KERNELS_CUDA_DECODE_CONVERT_CUH_

#include "kernels/cuda/decode_ring.cuh"

namespace msa::kernels::cuda {

// Four int8 to bfloat16, exactly: with the sign bit s and the other seven bits m of a byte,
// (128 + m) - (128 + 128 s), both halves of which are bfloat16 with their bits in plain sight.
__device__ __forceinline__ uint32_t WidenInt8Pair(uint32_t spread) {
  const uint32_t value = spread & 0xff7fff7fu;
  const uint32_t offset = spread & 0xff80ff80u;
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&value),
                                        *reinterpret_cast<const __nv_bfloat162*>(&offset));
  return *reinterpret_cast<const uint32_t*>(&result);
}

__device__ __forceinline__ uint2 WidenInt8(uint32_t bytes) {
  return {WidenInt8Pair(__byte_perm(bytes, 0x43434343u, 0x4140)),
          WidenInt8Pair(__byte_perm(bytes, 0x43434343u, 0x4342))};
}

__device__ __forceinline__ uint2 WidenFloat8(uint32_t bytes) {
  const auto low = static_cast<__nv_fp8x2_storage_t>(bytes & 0xffffu);
  const auto high = static_cast<__nv_fp8x2_storage_t>(bytes >> 16);
  const float2 a = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(low, __NV_E4M3)));
  const float2 b = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(high, __NV_E4M3)));
  return {PackBFloat16(a.x, a.y), PackBFloat16(b.x, b.y)};
}

// Four elements of a row from its raw bytes.
template <class Tile>
__device__ __forceinline__ uint2 ReadFour(const uint8_t* matrix, ElementType type, int row,
                                          int part) {
  if (type == ElementType::kFloat32) {
    if constexpr (Tile::kElementBytes == 4) {
      const float4 x =
          *reinterpret_cast<const float4*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part));
      return {PackBFloat16(x.x, x.y), PackBFloat16(x.z, x.w)};
    }
  }
  if (type == ElementType::kBFloat16) {
    return *reinterpret_cast<const uint2*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part / 2) +
                                           part % 2 * 8);
  }
  const uint32_t bytes = *reinterpret_cast<const uint32_t*>(
      matrix + ChunkOffset<Tile::kRowBytes>(row, part / 4) + part % 4 * 4);
  return type == ElementType::kInt8 ? WidenInt8(bytes) : WidenFloat8(bytes);
}

// Rows of a matrix to bfloat16 in place: all of eight rows' bytes are read before one is written.
template <class Tile, Conversion kFrom>
__device__ __forceinline__ void ConvertMatrix(uint8_t* matrix, const ElementType* types, int lane) {
  constexpr int kParts = Tile::kDim / 4;
  constexpr int kRowsAtOnce = kWarp / kParts;
  constexpr int kSteps = 8;
  const int part = lane % kParts;
#pragma unroll
  for (int first = 0; first < kDecodeTileTokens; first += kSteps * kRowsAtOnce) {
    uint2 held[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = first + i * kRowsAtOnce + lane / kParts;
      const ElementType type =
          kFrom == Conversion::kMixed ? types[row] : static_cast<ElementType>(kFrom);
      held[i] = ReadFour<Tile>(matrix, type, row, part);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = first + i * kRowsAtOnce + lane / kParts;
      *reinterpret_cast<uint2*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part / 2) +
                                part % 2 * 8) = held[i];
    }
  }
}

template <Conversion kFrom, class Tile>
__device__ __forceinline__ void ConvertBoth(Stage<Tile>& stage, int lane) {
  ConvertMatrix<Tile, kFrom>(stage.k, stage.types, lane);
  ConvertMatrix<Tile, kFrom>(stage.v, stage.types, lane);
  __syncwarp();
}

template <class Tile>
__device__ __forceinline__ void Convert(Stage<Tile>& stage, int lane) {
  switch (stage.conversion) {
    case Conversion::kNone:
      return;
    case Conversion::kFloat32:
      if constexpr (Tile::kElementBytes == 4) ConvertBoth<Conversion::kFloat32>(stage, lane);
      return;
    case Conversion::kInt8:
      return ConvertBoth<Conversion::kInt8>(stage, lane);
    case Conversion::kFloat8E4M3:
      return ConvertBoth<Conversion::kFloat8E4M3>(stage, lane);
    case Conversion::kMixed:
      return ConvertBoth<Conversion::kMixed>(stage, lane);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_CONVERT_CUH_
