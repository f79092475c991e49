// The running softmax of the tensor-core kernels, on the accumulator fragments of mma.cuh, and the
// exact treatment of NaN and infinity in value rows that only some queries see.
#ifndef MSA_KERNELS_CUDA_SOFTMAX_CUH_
#define MSA_KERNELS_CUDA_SOFTMAX_CUH_

#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float PowerOf2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Scores are in units of log 2.
struct SoftmaxState {
  float largest = -INFINITY;
  float weight_sum = 0.0f;  // of this lane's own columns until SumOverQuad
};

__device__ __forceinline__ float MaxOverQuad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float SumOverQuad(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// One row's scores in this lane become weights 2^(scale · (score - the largest)); returns the
// factor for earlier sums. scale > 0. kHalf 0: row g of the fragments, 1: row g + 8.
template <int kHalf, int kTiles>
__device__ __forceinline__ float Reweigh(float (&scores)[kTiles][4], float scale,
                                         SoftmaxState& state) {
  float largest = scores[0][2 * kHalf];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    largest = fmaxf(largest, fmaxf(scores[j][2 * kHalf], scores[j][2 * kHalf + 1]));
  }
  largest = fmaxf(state.largest, MaxOverQuad(largest) * scale);
  const float base = largest == -INFINITY ? 0.0f : largest;
  const float factor = PowerOf2(state.largest - base);
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float& score = scores[j][2 * kHalf + c];
      score = PowerOf2(fmaf(score, scale, -base));
      sum += score;
    }
  }
  state.largest = largest;
  state.weight_sum = state.weight_sum * factor + sum;
  return factor;
}

template <int kTiles>
__device__ __forceinline__ void ScaleRows(float (&sums)[kTiles][4], float low, float high) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    sums[n][0] *= low;
    sums[n][1] *= low;
    sums[n][2] *= high;
    sums[n][3] *= high;
  }
}

// A product with weight 0 does not keep NaN out of a row that must not see it. Adds the non-finite
// values of `num_rows` rows of V, tokens from `first` on, to the sums of the rows that see them:
// the caller then zeroes them in V. Only run when there are any.
template <int kRowBytes, int kTiles>
__device__ __forceinline__ void AddNonFinite(const uint8_t* v, int num_rows, int first,
                                             int limit_low, int limit_high,
                                             float (&sums)[kTiles][4]) {
  const int column = threadIdx.x % 4;
  for (int t = 0; t < num_rows; ++t) {
    const bool low = first + t < limit_low;
    const bool high = first + t < limit_high;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const uint32_t pair =
          *reinterpret_cast<const uint32_t*>(v + ChunkOffset<kRowBytes>(t, n) + 4 * column);
      const uint32_t bad_pair = pair ^ FiniteOrZero(pair);  // finite elements become 0
      if (bad_pair == 0) continue;
      if (low) {
        sums[n][0] += LowFloat(bad_pair);
        sums[n][1] += HighFloat(bad_pair);
      }
      if (high) {
        sums[n][2] += LowFloat(bad_pair);
        sums[n][3] += HighFloat(bad_pair);
      }
    }
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_SOFTMAX_CUH_
