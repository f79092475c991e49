// How the decode kernel reads K and V: straight from memory into the registers that the products
// take, from rows of any type in any view.
//
// A unit is up to 16 tokens of one type. Lane 4g+c reads of K the rows of tokens g and g+8, columns
// 32i+8c … 32i+8c+7; of V the rows of tokens 2c, 2c+1, 2c+8, 2c+9, columns 64i+8g … 64i+8g+7: whole
// sectors, and after widening the words are operands as they stand, since a product does not mind
// in which order its inner dimension is taken as long as both operands agree.
#ifndef MSA_KERNELS_CUDA_DECODE_ROWS_CUH_
#define MSA_KERNELS_CUDA_DECODE_ROWS_CUH_

#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {

inline constexpr int kUnitTokens = 16;

// Tokens first … first + count - 1; none when count is 0.
struct Unit {
  int first;
  int count;
};

// A warp's way through its tokens: blocks of 16 every `step` tokens, cut where the type changes.
struct Walk {
  ViewCursor cursor;  // at the unit last returned
  const TableView* views_end;
  int block;
  int step;
  int end;
  int token;

  __device__ __forceinline__ Unit Next() {
    if (token >= end) return {token, 0};
    cursor.Seek(token, views_end);
    const int stop = min(min(block + kUnitTokens, end), cursor.view.type_end);
    const Unit unit = {token, stop - token};
    if (stop == block + kUnitTokens) {
      block += step;
      token = block;
    } else {
      token = stop;
    }
    return unit;
  }
};

// Where a lane's rows of a unit are. Tokens beyond its count stand for the last one.
struct RowPointers {
  const uint8_t* k[2];
  const uint8_t* v[4];
  float k_scale;  // of token lane % 16
  float v_scale;
};

// Lane L finds token L % 16 and its rows are handed round: a unit may span many short views.
__device__ __forceinline__ RowPointers Locate(const Walk& walk, Unit unit, int num_kv_heads,
                                              int kv_head, int head_dim, int bytes, int lane) {
  const TableView* view = walk.cursor.next - 1;
  TableView mine = walk.cursor.view;
  const int token = unit.first + min(lane % kUnitTokens, unit.count - 1);
  while (token >= mine.first_token + mine.num_tokens) mine = *++view;
  const int64_t row = static_cast<int64_t>(token - mine.first_token) * num_kv_heads + kv_head;
  const auto k = reinterpret_cast<unsigned long long>(mine.k) + row * head_dim * bytes;
  const auto v = reinterpret_cast<unsigned long long>(mine.v) + row * head_dim * bytes;
  RowPointers rows;
  const bool scaled = mine.k_scales != nullptr;
  rows.k_scale = scaled ? __ldg(mine.k_scales + row) : 1.0f;
  rows.v_scale = scaled ? __ldg(mine.v_scales + row) : 1.0f;
  const int k_token = lane / 4;
  const int v_token = 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.k[i] = reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, k, k_token + 8 * i));
    rows.v[2 * i] = reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, v, v_token + 8 * i));
    rows.v[2 * i + 1] =
        reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, v, v_token + 8 * i + 1));
  }
  return rows;
}

// Eight elements as they are stored. kBytes: room for an element, 2 or 4; where it is 2, float32 is
// rounded on the way.
template <int kBytes>
struct RawChunk {
  uint4 part[kBytes / 2];
};

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

__device__ __forceinline__ uint4 RoundEight(uint4 a, uint4 b) {
  return {PackBFloat16(__uint_as_float(a.x), __uint_as_float(a.y)),
          PackBFloat16(__uint_as_float(a.z), __uint_as_float(a.w)),
          PackBFloat16(__uint_as_float(b.x), __uint_as_float(b.y)),
          PackBFloat16(__uint_as_float(b.z), __uint_as_float(b.w))};
}

// kRows rows, kChunks of each; chunk j of row i at element `column` + kStride · j.
template <int kBytes, int kRows, int kChunks, int kStride>
__device__ __forceinline__ void LoadChunks(const uint8_t* const (&rows)[kRows], int column,
                                           ElementType type,
                                           RawChunk<kBytes> (&chunks)[kRows][kChunks]) {
  if (type == ElementType::kBFloat16) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        chunks[i][j].part[0] = LoadStreamed16(rows[i] + 2 * (column + kStride * j));
      }
    }
  } else if (type != ElementType::kFloat32) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        const uint2 x = LoadStreamed8(rows[i] + column + kStride * j);
        chunks[i][j].part[0].x = x.x;
        chunks[i][j].part[0].y = x.y;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        const uint8_t* from = rows[i] + 4 * (column + kStride * j);
        const uint4 a = LoadStreamed16(from);
        const uint4 b = LoadStreamed16(from + 16);
        if constexpr (kBytes == 4) {
          chunks[i][j].part[0] = a;
          chunks[i][j].part[1] = b;
        } else {
          chunks[i][j].part[0] = RoundEight(a, b);
        }
      }
    }
  }
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

// The chunks' first parts become eight bfloat16.
template <int kBytes, int kRows, int kChunks>
__device__ __forceinline__ void WidenChunks(ElementType type,
                                            RawChunk<kBytes> (&chunks)[kRows][kChunks]) {
  if (type == ElementType::kInt8) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      const uint4 x = chunk.part[0];
      chunk.part[0] = {WidenInt8Pair(__byte_perm(x.x, 0x43434343u, 0x4140)),
                       WidenInt8Pair(__byte_perm(x.x, 0x43434343u, 0x4342)),
                       WidenInt8Pair(__byte_perm(x.y, 0x43434343u, 0x4140)),
                       WidenInt8Pair(__byte_perm(x.y, 0x43434343u, 0x4342))};
    });
  } else if (type == ElementType::kFloat8E4M3) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      const uint4 x = chunk.part[0];
      chunk.part[0] = {WidenFloat8Pair(x.x & 0xffffu), WidenFloat8Pair(x.x >> 16),
                       WidenFloat8Pair(x.y & 0xffffu), WidenFloat8Pair(x.y >> 16)};
    });
  } else if (kBytes == 4 && type == ElementType::kFloat32) {
    ForChunks(chunks, [](RawChunk<kBytes>& chunk) {
      chunk.part[0] = RoundEight(chunk.part[0], chunk.part[kBytes / 2 - 1]);
    });
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_ROWS_CUH_
