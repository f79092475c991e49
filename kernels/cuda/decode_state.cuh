// What a warp of the decode kernel keeps while tokens stream by, and the shapes it is compiled for.
#ifndef MSA_KERNELS_CUDA_DECODE_STATE_CUH_
#define MSA_KERNELS_CUDA_DECODE_STATE_CUH_

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {

inline constexpr int kTileHeads = 8;

// kHeadTiles: of eight query heads.
template <int kDimension, int kElementBytes, int kHeads>
struct DecodeShape {
  static constexpr int kDim = kDimension;
  static constexpr int kBytes = kElementBytes;
  static constexpr int kHeadTiles = kHeads;
  static constexpr int kKeyChunks = kDim / 32;
  static constexpr int kValueChunks = kDim / 64;
  static constexpr int kValueTiles = kDim / 16;
  // Blocks a multiprocessor that leave the registers to hold a unit without spilling.
  static constexpr int kBlocks = kBytes * kDim * kHeadTiles <= 128 ? 4
                                 : kBytes * kHeadTiles == 2        ? 3
                                                                   : 2;
};

// What a lane keeps: of q the columns that it reads of K; sums of dimensions 64i+8g+2e and the next
// one (tile 4i+e) for heads 2c and 2c+1 of each tile of heads.
template <class Shape>
struct State {
  uint32_t q[Shape::kHeadTiles][Shape::kKeyChunks][4];
  float sums[Shape::kHeadTiles][Shape::kValueTiles][4];
  float largest[Shape::kHeadTiles][2];
  float weight_sum[Shape::kHeadTiles][2];  // of this lane's tokens
};

template <class Shape>
__device__ __forceinline__ void LoadQueries(const float* q, int group, int lane,
                                            State<Shape>& state) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
    const int head = kTileHeads * h + lane / 4;
#pragma unroll
    for (int j = 0; j < Shape::kKeyChunks; ++j) {
      const auto* from = reinterpret_cast<const float4*>(
          q + (head < group ? head : 0) * Shape::kDim + 32 * j + 8 * (lane % 4));
      const float4 a = from[0];
      const float4 b = from[1];
      const bool real = head < group;
      state.q[h][j][0] = real ? PackBFloat16(a.x, a.y) : 0;
      state.q[h][j][1] = real ? PackBFloat16(a.z, a.w) : 0;
      state.q[h][j][2] = real ? PackBFloat16(b.x, b.y) : 0;
      state.q[h][j][3] = real ? PackBFloat16(b.z, b.w) : 0;
    }
  }
}

template <class Shape>
__device__ __forceinline__ void Clear(State<Shape>& state) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int m = 0; m < Shape::kValueTiles; ++m) {
      state.sums[h][m][0] = state.sums[h][m][1] = state.sums[h][m][2] = state.sums[h][m][3] = 0.0f;
    }
    state.largest[h][0] = state.largest[h][1] = -INFINITY;
    state.weight_sum[h][0] = state.weight_sum[h][1] = 0.0f;
  }
}

__device__ __forceinline__ float MaxOverTokens(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarp; lanes *= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  }
  return x;
}
__device__ __forceinline__ float SumOverTokens(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarp; lanes *= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_STATE_CUH_
