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
#include "kernels/cuda/decode_widen.cuh"
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

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_ROWS_CUH_
