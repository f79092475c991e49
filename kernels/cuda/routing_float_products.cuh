// The sums of the memory-bound pass over float32 keys. Only for routing_pass.cuh.
#ifndef MSA_KERNELS_CUDA_ROUTING_FLOAT_PRODUCTS_CUH_
#define MSA_KERNELS_CUDA_ROUTING_FLOAT_PRODUCTS_CUH_

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_products.cuh"

namespace msa::kernels::cuda {

// Float32 keys: plain multiply-adds, a lane has a row and 4 columns of each tile. Every 32 products
// are summed by themselves, then added: the error of 1,024 products is about that of 32.
template <typename Shape>
struct FloatProducts {
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kColumnTiles = Shape::kColumnTiles;
  static constexpr int kStepsOfSum = 8;  // the same for every slice size
  float sums[kRowTiles][kColumnTiles][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) (&sums[0][0][0])[i] = 0;
  }

  __device__ void AddSlice(uint32_t keys, const char* packed) {
    const int lane = threadIdx.x % 32;
    const char* row =
        static_cast<const char*>(__cvta_shared_to_generic(keys + lane % 16 * Shape::kPitch));
    const char* columns = packed + lane / 16 * 4 * sizeof(float4);
    for (int i = 0; i < Shape::kSteps; i += kStepsOfSum) {
      AddSteps(row + i * 16, columns + i * Shape::kStepBytes);
    }
  }

  __device__ void AddSteps(const char* row, const char* columns) {
    float part[kRowTiles][kColumnTiles][4] = {};
#pragma unroll 4
    for (int i = 0; i < kStepsOfSum; ++i) {
      float4 a[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        a[m] = *reinterpret_cast<const float4*>(row + m * 16 * Shape::kPitch + i * 16);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float4 b = reinterpret_cast<const float4*>(
              columns + i * Shape::kStepBytes)[n * kColumnsOfTile + c];
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            float& sum = part[m][n][c];
            sum = fmaf(a[m].x, b.x, sum);
            sum = fmaf(a[m].y, b.y, sum);
            sum = fmaf(a[m].z, b.z, sum);
            sum = fmaf(a[m].w, b.w, sum);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) {
      (&sums[0][0][0])[i] += (&part[0][0][0])[i];
    }
  }

  __device__ void StoreBest(const ColumnScaling&, int, typename Shape::TileValues values) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float(&sum)[4] = sums[m][n];
        float best = MaxOrNan(MaxOrNan(sum[0], sum[1]), MaxOrNan(sum[2], sum[3]));
        best = MaxOrNan(best, __shfl_xor_sync(~0u, best, 16));
        if (lane < 16) values[n][m * 16 + lane] = best;
      }
    }
  }
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_FLOAT_PRODUCTS_CUH_
