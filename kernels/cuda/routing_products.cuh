// How the consumers of the memory-bound pass share a tile of keys, and the sums that they make.
// For routing_pass.cuh and routing_listed.cu.
//
// A dot product adds its steps in the order of the width, whatever the shape of the tile.
#ifndef MSA_KERNELS_CUDA_ROUTING_PRODUCTS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_PRODUCTS_CUH_

#include <type_traits>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

constexpr int kConsumerWarps = 8;

// How consumer warps share a tile of keys: rows in groups of 16 · kRowTiles, columns in groups of
// 8 · kColumnTiles. Many columns are bound by reading queries from shared memory: a warp reads a
// fragment of them for 32 keys, or for 64 where keys of 8 bits come twice as fast.
__host__ __device__ constexpr int RowTiles(KeyFormat format, int pieces, int columns) {
  const bool narrow_keys = IsInteger(format) || (format == KeyFormat::kFloat8 && pieces == 1);
  return columns == 1 ? 1 : narrow_keys && columns == 4 ? 4 : 2;
}
__host__ __device__ constexpr int ColumnGroups(int columns) { return columns == 1 ? 1 : 2; }
__host__ __device__ constexpr int TileRows(KeyFormat format, int pieces, int columns) {
  return kConsumerWarps / ColumnGroups(columns) * 16 * RowTiles(format, pieces, columns);
}

template <KeyFormat kKeys, int kPieceCount, int kColumns, int kSlice>
struct PassShape {
  static constexpr KeyFormat kFormat = kKeys;
  static constexpr int kPieces = kPieceCount;
  static constexpr int kCapacity = kColumns;
  static constexpr int kColumnGroups = ColumnGroups(kColumns);
  static constexpr int kColumnTiles = kColumns / kColumnGroups;
  static constexpr int kRowTiles = RowTiles(kKeys, kPieceCount, kColumns);
  static constexpr int kTileRows = TileRows(kKeys, kPieceCount, kColumns);
  static constexpr int kSliceBytes = kSlice;
  // One access width of padding: the 8 rows of a fragment lie in different banks.
  static constexpr int kPitch = kSlice + 16;
  static constexpr int kStageBytes = kTileRows * kPitch;
  static constexpr int kValuesBytes = kColumns * kTileRows * static_cast<int>(sizeof(float));
  static constexpr int kSteps = KeyElements(kKeys, kSlice) / StepWidth(kKeys);  // of a slice
  static constexpr int kStepBytes = kColumns * PackedStepBytes(kKeys, kPieceCount);
  using TileValues = float (*)[kTileRows];  // best of each column tile, by chunk
};

// Sums of a warp's rows × columns, and the steps that add to them.
template <typename Shape>
struct Products {
  using Sum = std::conditional_t<IsInteger(Shape::kFormat), int32_t, float>;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kColumnTiles = Shape::kColumnTiles;
  Sum sums[Shape::kPieces][kRowTiles][kColumnTiles][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < Shape::kPieces * kRowTiles * kColumnTiles * 4; ++i) {
      (&sums[0][0][0][0])[i] = 0;
    }
  }

  // `a` is the fragment of kRowTiles · 16 keys for the products of one step.
  __device__ void Step(const uint32_t (&a)[kRowTiles][4], const char* packed) {
    const uint2* fragments = reinterpret_cast<const uint2*>(packed) + threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int p = 0; p < Shape::kPieces; ++p) {
        const uint2 b = fragments[(n * Shape::kPieces + p) * 32];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          if constexpr (Shape::kFormat == KeyFormat::kInt8) {
            MmaInt8(sums[p][m][n], a[m], b);
          } else if constexpr (Shape::kFormat == KeyFormat::kInt4) {
            MmaUint8Int8(sums[p][m][n], a[m], b);
          } else if constexpr (Shape::kFormat == KeyFormat::kFloat8) {
            MmaHalf(sums[p][m][n], a[m], b);
          } else {
            MmaBFloat16(sums[p][m][n], a[m], b);
          }
        }
      }
    }
  }

  // A slice of the keys times the columns. `keys` is the shared-memory address of the warp's first
  // row, `packed` its first column's fragment of the slice's first step.
  __device__ void AddSlice(uint32_t keys, const char* packed) {
    const int lane = threadIdx.x % 32;
    const uint32_t address = keys + lane % 16 * Shape::kPitch + lane / 16 * 16;
#pragma unroll
    for (int i = 0; i < Shape::kSliceBytes / 32; ++i) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        LoadMatrix4(a[m], address + m * 16 * Shape::kPitch + i * 32);
      }
      AddFragment(a, packed + i * kStepsOfFragment * Shape::kStepBytes, Shape::kStepBytes);
    }
  }

  // 32 bytes of the keys' width; `step_bytes` from step to step of the packed columns.
  static constexpr int kStepsOfFragment =
      KeyElements(Shape::kFormat, 32) / StepWidth(Shape::kFormat);
  __device__ void AddFragment(const uint32_t (&a)[kRowTiles][4], const char* packed,
                              int step_bytes) {
    if constexpr (Shape::kFormat == KeyFormat::kFloat8) {
      AddFloat8(a, packed, step_bytes);
    } else if constexpr (Shape::kFormat == KeyFormat::kInt4) {
      AddInt4(a, packed, step_bytes);
    } else {
      Step(a, packed);
    }
  }

  // Bytes 4t … 4t+3 of thread t make its two registers of a step's fragment; PrepareQueries packs
  // the columns in that order.
  __device__ void AddFloat8(const uint32_t (&a)[kRowTiles][4], const char* packed, int step_bytes) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t wide[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // rows, rows + 8
          const uint32_t four = a[m][2 * step + half];
          wide[m][half] = WidenFloat8(four);
          wide[m][half + 2] = WidenFloat8(four >> 16);
        }
      }
      Step(wide, packed + step * step_bytes);
    }
  }

  // Low halves of the bytes are the first step's elements, high halves the second's.
  __device__ void AddInt4(const uint32_t (&a)[kRowTiles][4], const char* packed, int step_bytes) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t wide[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < 4 * kRowTiles; ++i) {
        (&wide[0][0])[i] = (&a[0][0])[i] >> (4 * step) & 0x0F0F0F0Fu;
      }
      Step(wide, packed + step * step_bytes);
    }
  }

  // The dot product of an element of the fragment; `column` of `scaling` is its column.
  __device__ float Value(int m, int n, int i, const ColumnScaling& scaling, int column) const {
    float value = static_cast<float>(sums[0][m][n][i]);
    if constexpr (IsInteger(Shape::kFormat)) {
#pragma unroll
      for (int p = 1; p < Shape::kPieces; ++p) {
        value = fmaf(256.0f, value, static_cast<float>(sums[p][m][n][i]));
      }
      if constexpr (Shape::kFormat == KeyFormat::kInt4) value += scaling.offset[column];
    } else if constexpr (Shape::kPieces == 2) {
      value += sums[1][m][n][i];
    }
    return Shape::kFormat == KeyFormat::kBFloat16 ? value : value * scaling.scale[column];
  }

  // Best of column tile n, which begins at `column` of `scaling`, for rows lane / 4 (low) and
  // lane / 4 + 8 (high) of row tile m; the same in all four lanes of a row.
  __device__ void Best(int m, int n, const ColumnScaling& scaling, int column, float& low,
                       float& high) const {
    column += threadIdx.x % 4 * 2;
    low = MaxOrNan(Value(m, n, 0, scaling, column), Value(m, n, 1, scaling, column + 1));
    high = MaxOrNan(Value(m, n, 2, scaling, column), Value(m, n, 3, scaling, column + 1));
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 1));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 1));
    low = MaxOrNan(low, __shfl_xor_sync(~0u, low, 2));
    high = MaxOrNan(high, __shfl_xor_sync(~0u, high, 2));
  }

  // Best of each column tile, to values[column tile][row]. `values` is at the warp's first row and
  // column tile, which is `column_tile` of `scaling`.
  __device__ void StoreBest(const ColumnScaling& scaling, int column_tile,
                            typename Shape::TileValues values) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float low;
        float high;
        Best(m, n, scaling, (column_tile + n) * kColumnsOfTile, low, high);
        if (lane % 4 == 0) {
          values[n][m * 16 + lane / 4] = low;
          values[n][m * 16 + lane / 4 + 8] = high;
        }
      }
    }
  }
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_PRODUCTS_CUH_
