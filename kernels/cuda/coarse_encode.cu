#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/coarse.h"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float ToFloat(int8_t x) { return x; }
__device__ float ToFloat(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

__device__ int Code(float x) { return min(max(__float2int_rd(x) + 8, 0), 15); }

__device__ float SumOfWarp(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ float MaxOfWarp(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

// How well codes at a step of 1 / inverse fit: the share of the key's square that they explain, and
// the scale that explains it best.
struct Fit {
  float explained;
  float scale;
};

template <typename Key>
__device__ Fit FitOf(const Key* key, int width, float key_scale, float inverse) {
  float product = 0;
  float square = 0;
  for (int i = threadIdx.x % 32; i < width; i += 32) {
    const float x = ToFloat(key[i]) * key_scale;
    const float level = static_cast<float>(Code(x * inverse)) - 7.5f;
    product = fmaf(x, level, product);
    square = fmaf(level, level, square);
  }
  product = SumOfWarp(product);
  square = SumOfWarp(square);
  return {product * product / square, product / square};
}

// One warp a chunk.
template <typename Key>
__global__ void __launch_bounds__(kThreads)
    EncodeKernel(const Key* keys, const float* key_scales, int64_t num_chunks, int width,
                 uint8_t* codes, float* scales) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t chunk = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; chunk < num_chunks;
       chunk += stride) {
    const Key* key = keys + chunk * width;
    const float key_scale = key_scales == nullptr ? 1.0f : key_scales[chunk];
    float largest = 0;
    bool finite = true;
    for (int i = lane; i < width; i += 32) {
      const float magnitude = fabsf(ToFloat(key[i]) * key_scale);
      finite = finite && isfinite(magnitude);
      largest = fmaxf(largest, magnitude);
    }
    finite = __all_sync(~0u, finite);
    largest = MaxOfWarp(largest);
    Fit best = {-1, 0};
    float best_inverse = 0;
    // Steps from one that reaches the largest element down to one that reaches a third of it.
    for (int i = 0; i < 12 && finite && largest > 1e-30f; ++i) {
      const float inverse = 8.0f / (largest * (1.0f - i / 18.0f));
      const Fit fit = FitOf(key, width, key_scale, inverse);
      if (fit.explained > best.explained) {
        best = fit;
        best_inverse = inverse;
      }
    }
    if (lane == 0) scales[chunk] = finite ? best.scale : NAN;
    for (int byte = lane; byte < width / 2; byte += 32) {
      const int low = byte / 32 * kInt4Group + byte % 32;
      const float x = finite ? ToFloat(key[low]) * key_scale : 0;
      const float y = finite ? ToFloat(key[low + 32]) * key_scale : 0;
      codes[chunk * (width / 2) + byte] =
          static_cast<uint8_t>(Code(x * best_inverse) | Code(y * best_inverse) << 4);
    }
  }
}

template <typename Key>
cudaError_t Launch(const void* keys, const float* key_scales, int64_t num_chunks, int width,
                   uint8_t* codes, float* scales, cudaStream_t stream) {
  constexpr int64_t kMaxBlocks = 4096;
  const int64_t blocks = std::min((num_chunks + kThreads / 32 - 1) / (kThreads / 32), kMaxBlocks);
  EncodeKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      static_cast<const Key*>(keys), key_scales, num_chunks, width, codes, scales);
  return cudaGetLastError();
}

}  // namespace

cudaError_t EncodeCoarse(const void* keys, KeyFormat format, const float* key_scales,
                         int64_t num_chunks, int width, uint8_t* codes, float* scales,
                         cudaStream_t stream) {
  if (width <= 0 || width % kInt4Group != 0 || num_chunks < 0) return cudaErrorInvalidValue;
  if (num_chunks == 0) return cudaSuccess;
  switch (format) {
    case KeyFormat::kFloat32:
      return Launch<float>(keys, key_scales, num_chunks, width, codes, scales, stream);
    case KeyFormat::kBFloat16:
      return Launch<__nv_bfloat16>(keys, key_scales, num_chunks, width, codes, scales, stream);
    case KeyFormat::kInt8:
      return Launch<int8_t>(keys, key_scales, num_chunks, width, codes, scales, stream);
    case KeyFormat::kFloat8:
      return Launch<__nv_fp8_e4m3>(keys, key_scales, num_chunks, width, codes, scales, stream);
    case KeyFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace msa::kernels::cuda
