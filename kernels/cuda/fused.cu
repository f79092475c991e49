// A decoder layer's small operations: norms, rotation, activation, gathers. One block a row where a
// row is reduced; grid-stride loops over elements elsewhere.
#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/launch.h"

namespace msa::kernels::cuda {
namespace {

__device__ __forceinline__ void Store(const FloatOutputs& out, int64_t i, float x) {
  if (out.f32 != nullptr) out.f32[i] = x;
  if (out.bf16 != nullptr) static_cast<__nv_bfloat16*>(out.bf16)[i] = __float2bfloat16_rn(x);
}

__device__ __forceinline__ float4 Scaled(float4 x, float factor, float4 weight) {
  return {x.x * factor * weight.x, x.y * factor * weight.y, x.z * factor * weight.z,
          x.w * factor * weight.w};
}

__device__ __forceinline__ void Store4(const FloatOutputs& out, int64_t i, float4 x) {
  if (out.f32 != nullptr) *reinterpret_cast<float4*>(out.f32 + i) = x;
  if (out.bf16 != nullptr) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y);
    const __nv_bfloat162 high = __floats2bfloat162_rn(x.z, x.w);
    uint2 bits;
    bits.x = *reinterpret_cast<const uint32_t*>(&low);
    bits.y = *reinterpret_cast<const uint32_t*>(&high);
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out.bf16) + i) = bits;
  }
}

// y may be null; else x[row] += y[row] first, which each thread does to the elements it reads
// again.
__global__ void RmsNormKernel(float* sum_out, const float* x, const float* y, const float* weight,
                              int64_t width, float eps, FloatOutputs out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    float value = x[row + i];
    if (y != nullptr) sum_out[row + i] = value = value + y[row + i];
    squares += value * value;
  }
  const float mean = BlockSum(squares) / static_cast<float>(width);
  const float factor = 1.0f / sqrtf(mean + eps);
  const float* from = y != nullptr ? sum_out : x;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    Store(out, row + i, from[row + i] * factor * weight[i]);
  }
}

// The same on float4, the row held in registers between the passes: kVectors · blockDim.x >= width
// / 4.
template <int kVectors>
__global__ void RmsNormVectorKernel(float* sum_out, const float* x, const float* y,
                                    const float* weight, int width, float eps, FloatOutputs out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  float4 held[kVectors];
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = 4 * (v * blockDim.x + threadIdx.x);
    if (i >= width) continue;
    float4 a = *reinterpret_cast<const float4*>(x + row + i);
    if (y != nullptr) {
      const float4 b = *reinterpret_cast<const float4*>(y + row + i);
      a = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
      *reinterpret_cast<float4*>(sum_out + row + i) = a;
    }
    held[v] = a;
    squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
  }
  const float mean = BlockSum(squares) / static_cast<float>(width);
  const float factor = 1.0f / sqrtf(mean + eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = 4 * (v * blockDim.x + threadIdx.x);
    if (i >= width) continue;
    const float4 w = *reinterpret_cast<const float4*>(weight + i);
    Store4(out, row + i, Scaled(held[v], factor, w));
  }
}

bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

cudaError_t LaunchRmsNorm(float* sum_out, const float* x, const float* y, const float* weight,
                          int64_t rows, int64_t width, float eps, const FloatOutputs& out,
                          cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const bool vectors = width % 4 == 0 && width <= 8192 && Aligned16(x) && Aligned16(weight) &&
                       (y == nullptr || (Aligned16(y) && Aligned16(sum_out))) &&
                       Aligned16(out.f32) && Aligned16(out.bf16);
  const auto blocks = static_cast<unsigned>(rows);
  if (vectors && width <= 1024) {
    RmsNormVectorKernel<2>
        <<<blocks, 128, 0, stream>>>(sum_out, x, y, weight, static_cast<int>(width), eps, out);
  } else if (vectors && width <= 4096) {
    RmsNormVectorKernel<4>
        <<<blocks, 256, 0, stream>>>(sum_out, x, y, weight, static_cast<int>(width), eps, out);
  } else if (vectors) {
    RmsNormVectorKernel<4>
        <<<blocks, 512, 0, stream>>>(sum_out, x, y, weight, static_cast<int>(width), eps, out);
  } else {
    RmsNormKernel<<<blocks, width <= 128 ? 128 : 256, 0, stream>>>(sum_out, x, y, weight, width,
                                                                   eps, out);
  }
  return cudaGetLastError();
}

// Largest head: pairs (i, i + half) a lane holds.
constexpr int kMaxHeadDim = 256;
constexpr int kMaxPairs = kMaxHeadDim / 2 / kWarp;

// One head of one row, by one warp: lane l holds the pairs (i, i + half), i = l, l + 32, ….
struct HeadPairs {
  float low[kMaxPairs];
  float high[kMaxPairs];
};

__device__ __forceinline__ HeadPairs LoadPairs(const float* x, int half, int lane) {
  HeadPairs head;
#pragma unroll
  for (int p = 0; p < kMaxPairs; ++p) {
    const int i = p * kWarp + lane;
    head.low[p] = i < half ? x[i] : 0.0f;
    head.high[p] = i < half ? x[half + i] : 0.0f;
  }
  return head;
}

__device__ __forceinline__ void NormalisePairs(HeadPairs& head, const float* weight, int half,
                                               float eps, int lane) {
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kMaxPairs; ++p) {
    squares += head.low[p] * head.low[p] + head.high[p] * head.high[p];
  }
  const float mean = WarpSum(squares) / static_cast<float>(2 * half);
  const float factor = 1.0f / sqrtf(mean + eps);
#pragma unroll
  for (int p = 0; p < kMaxPairs; ++p) {
    const int i = p * kWarp + lane;
    if (i >= half) continue;
    head.low[p] = head.low[p] * factor * weight[i];
    head.high[p] = head.high[p] * factor * weight[half + i];
  }
}

__device__ __forceinline__ void RotatePairs(HeadPairs& head, const float* cosines,
                                            const float* sines, int half, int lane) {
#pragma unroll
  for (int p = 0; p < kMaxPairs; ++p) {
    const int i = p * kWarp + lane;
    if (i >= half) continue;
    const float low = head.low[p];
    const float high = head.high[p];
    head.low[p] = low * cosines[i] - high * sines[i];
    head.high[p] = high * cosines[i] + low * sines[i];
  }
}

__device__ __forceinline__ void StorePairs(const HeadPairs& head, int half, int lane, void* out,
                                           ElementType type, int64_t at) {
#pragma unroll
  for (int p = 0; p < kMaxPairs; ++p) {
    const int i = p * kWarp + lane;
    if (i >= half) continue;
    StoreElement(out, type, at + i, head.low[p], 1.0f);
    StoreElement(out, type, at + half + i, head.high[p], 1.0f);
  }
}

// The angle is rounded to float32 before its sine is taken, as transformers does.
__device__ __forceinline__ void FillSines(int32_t position, const float* inv_freq, float magnitude,
                                          int half, float* cosines, float* sines) {
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float angle = __fmul_rn(static_cast<float>(position), inv_freq[i]);
    cosines[i] = cosf(angle) * magnitude;
    sines[i] = sinf(angle) * magnitude;
  }
}

constexpr int64_t kFewRows = 64;

// Block x takes a row, its blocks y share out the heads, a warp takes one at a time.
__global__ void SplitQkvKernel(QkvArgs args) {
  __shared__ float cosines[kMaxHeadDim / 2];
  __shared__ float sines[kMaxHeadDim / 2];
  AllowDependents();
  WaitForPrerequisites();
  const int64_t row = blockIdx.x;
  const int half = args.head_dim / 2;
  FillSines(args.positions[row], args.inv_freq, args.magnitude, half, cosines, sines);
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const int heads = args.num_q_heads + 2 * args.num_kv_heads;
  const float* from = args.qkv + row * heads * args.head_dim;
  const int cache_token = args.caches != nullptr ? args.cache_tokens[row] : -1;
  const int warps = blockDim.x / kWarp;
  for (int h = blockIdx.y * warps + threadIdx.x / kWarp; h < heads; h += gridDim.y * warps) {
    HeadPairs head = LoadPairs(from + h * args.head_dim, half, lane);
    const bool is_q = h < args.num_q_heads;
    const bool is_v = h >= args.num_q_heads + args.num_kv_heads;
    const float* norm = is_q ? args.q_norm : args.k_norm;
    if (!is_v) {
      if (norm != nullptr) NormalisePairs(head, norm, half, args.eps, lane);
      RotatePairs(head, cosines, sines, half, lane);
    }
    const int kv_head = h - args.num_q_heads - (is_v ? args.num_kv_heads : 0);
    float* out = is_q ? args.q : is_v ? args.v : args.k;
    const int64_t at = is_q ? row * args.num_q_heads + h : row * args.num_kv_heads + kv_head;
    if (out != nullptr) {
      StorePairs(head, half, lane, out, ElementType::kFloat32, at * args.head_dim);
    }
    if (!is_q && cache_token >= 0) {
      const KvSlots slots = args.caches[row];
      const int64_t slot = static_cast<int64_t>(cache_token) * args.num_kv_heads + kv_head;
      StorePairs(head, half, lane, is_v ? slots.v : slots.k, args.cache_type, slot * args.head_dim);
    }
  }
}

__global__ void RopeKernel(float* x, const int32_t* positions, int num_heads, int head_dim,
                           const float* inv_freq, float magnitude) {
  __shared__ float cosines[kMaxHeadDim / 2];
  __shared__ float sines[kMaxHeadDim / 2];
  const int64_t row = blockIdx.x;
  const int half = head_dim / 2;
  FillSines(positions[row], inv_freq, magnitude, half, cosines, sines);
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < num_heads; h += blockDim.x / kWarp) {
    const int64_t at = (row * num_heads + h) * head_dim;
    HeadPairs head = LoadPairs(x + at, half, lane);
    RotatePairs(head, cosines, sines, half, lane);
    StorePairs(head, half, lane, x, ElementType::kFloat32, at);
  }
}

__device__ __forceinline__ float SiluTimes(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

__global__ void SiluMulKernel(const float* gate, const float* up, int64_t rows, int64_t width,
                              int64_t stride, FloatOutputs out) {
  ForEach(rows * width, [&](int64_t i) {
    const int64_t at = i / width * stride + i % width;
    Store(out, i, SiluTimes(gate[at], up[at]));
  });
}

__global__ void SiluMulVectorKernel(const float* gate, const float* up, int rows, int width,
                                    int64_t stride, FloatOutputs out) {
  const int column = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (column >= width) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const float4 g = *reinterpret_cast<const float4*>(gate + row * stride + column);
    const float4 u = *reinterpret_cast<const float4*>(up + row * stride + column);
    const float4 y = {SiluTimes(g.x, u.x), SiluTimes(g.y, u.y), SiluTimes(g.z, u.z),
                      SiluTimes(g.w, u.w)};
    Store4(out, row * width + column, y);
  }
}

__global__ void AddKernel(float* x, const float* y, int64_t n) {
  ForEach(n, [&](int64_t i) { x[i] += y[i]; });
}

__global__ void AddVectorKernel(float4* x, const float4* y, int64_t n) {
  ForEach(n, [&](int64_t i) {
    const float4 a = x[i];
    const float4 b = y[i];
    x[i] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  });
}

__global__ void AddBiasKernel(float* y, const float* bias, int64_t n, int64_t width) {
  ForEach(n, [&](int64_t i) { y[i] += bias[i % width]; });
}

__global__ void GatherRowsKernel(const void* table, ElementType type, const int32_t* indices,
                                 int64_t width, int64_t stride, FloatOutputs out) {
  const int64_t row = blockIdx.x;
  const int64_t from = static_cast<int64_t>(indices[row]) * stride;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    Store(out, row * width + i, ElementAt(table, type, from + i));
  }
}

// The better of two candidates: the larger value, then the lower index; NaN loses to anything.
struct Candidate {
  float value;
  int index;
};

__device__ __forceinline__ Candidate Better(Candidate a, Candidate b) {
  const bool take_b = b.value > a.value || (b.value == a.value && b.index < a.index);
  return take_b ? b : a;
}

__device__ __forceinline__ Candidate WarpBetter(Candidate best) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const Candidate other = {__shfl_xor_sync(0xffffffffu, best.value, lanes),
                             __shfl_xor_sync(0xffffffffu, best.index, lanes)};
    best = Better(best, other);
  }
  return best;
}

__global__ void ArgMaxKernel(const float* x, int n, int32_t* indices, float* values) {
  __shared__ Candidate partial[kWarp];
  const float* row = x + static_cast<int64_t>(blockIdx.x) * n;
  Candidate best = {-INFINITY, INT32_MAX};
  // One block reads the row: by fours, and several of them at a time.
  const int fours = reinterpret_cast<uintptr_t>(row) % 16 == 0 ? n / 4 : 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < fours; i += blockDim.x) {
    const float4 x = reinterpret_cast<const float4*>(row)[i];
    best = Better(best, {x.x, 4 * i});
    best = Better(best, {x.y, 4 * i + 1});
    best = Better(best, {x.z, 4 * i + 2});
    best = Better(best, {x.w, 4 * i + 3});
  }
  for (int i = 4 * fours + threadIdx.x; i < n; i += blockDim.x) best = Better(best, {row[i], i});
  best = WarpBetter(best);
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  const Candidate none = {-INFINITY, INT32_MAX};
  best = WarpBetter(lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : none);
  if (lane != 0) return;
  const int index = best.index == INT32_MAX ? 0 : best.index;
  indices[blockIdx.x] = index;
  if (values != nullptr) values[blockIdx.x] = row[index];
}

}  // namespace

cudaError_t RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
                    FloatOutputs out, cudaStream_t stream) {
  return LaunchRmsNorm(nullptr, x, nullptr, weight, rows, width, eps, out, stream);
}

cudaError_t AddRmsNorm(float* x, const float* y, const float* weight, int64_t rows, int64_t width,
                       float eps, FloatOutputs out, cudaStream_t stream) {
  return LaunchRmsNorm(x, x, y, weight, rows, width, eps, out, stream);
}

cudaError_t SplitQkv(const QkvArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.head_dim % 2 != 0 || args.head_dim > kMaxHeadDim || IsScaled(args.cache_type)) {
    return cudaErrorInvalidValue;
  }
  // A few rows would leave most of the chip idle while their heads wait for one another.
  constexpr int kWarps = 8;
  const int heads = args.num_q_heads + 2 * args.num_kv_heads;
  const int parts = args.rows <= kFewRows ? (heads + kWarps - 1) / kWarps : 1;
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(parts));
  return LaunchDependent(SplitQkvKernel, grid, dim3(kWarps * kWarp), stream, args);
}

cudaError_t Rope(float* x, const int32_t* positions, int64_t rows, int num_heads, int head_dim,
                 const float* inv_freq, float magnitude, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  RopeKernel<<<static_cast<unsigned>(rows), 256, 0, stream>>>(x, positions, num_heads, head_dim,
                                                              inv_freq, magnitude);
  return cudaGetLastError();
}

cudaError_t SiluMul(const float* gate, const float* up, int64_t rows, int64_t width, int64_t stride,
                    FloatOutputs out, cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const bool vectors = width % 4 == 0 && stride % 4 == 0 && width < (1 << 30) && Aligned16(gate) &&
                       Aligned16(up) && Aligned16(out.f32) && Aligned16(out.bf16);
  if (vectors) {
    const dim3 grid(static_cast<unsigned>((width / 4 + 255) / 256),
                    static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
    SiluMulVectorKernel<<<grid, 256, 0, stream>>>(gate, up, static_cast<int>(rows),
                                                  static_cast<int>(width), stride, out);
  } else {
    SiluMulKernel<<<GridFor(rows * width), kElementThreads, 0, stream>>>(gate, up, rows, width,
                                                                         stride, out);
  }
  return cudaGetLastError();
}

cudaError_t Add(float* x, const float* y, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  if (n % 4 == 0 && Aligned16(x) && Aligned16(y)) {
    AddVectorKernel<<<GridFor(n / 4), kElementThreads, 0, stream>>>(
        reinterpret_cast<float4*>(x), reinterpret_cast<const float4*>(y), n / 4);
  } else {
    AddKernel<<<GridFor(n), kElementThreads, 0, stream>>>(x, y, n);
  }
  return cudaGetLastError();
}

cudaError_t AddBias(float* y, const float* bias, int64_t rows, int64_t width, cudaStream_t stream) {
  if (rows * width == 0) return cudaSuccess;
  AddBiasKernel<<<GridFor(rows * width), kElementThreads, 0, stream>>>(y, bias, rows * width,
                                                                       width);
  return cudaGetLastError();
}

cudaError_t GatherRows(const void* table, ElementType type, const int32_t* indices, int64_t rows,
                       int64_t width, int64_t stride, FloatOutputs out, cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  if (IsScaled(type)) return cudaErrorInvalidValue;
  GatherRowsKernel<<<static_cast<unsigned>(rows), 256, 0, stream>>>(table, type, indices, width,
                                                                    stride, out);
  return cudaGetLastError();
}

cudaError_t ArgMax(const float* x, int64_t rows, int64_t n, int32_t* indices, float* values,
                   cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (n < 1 || n > INT32_MAX) return cudaErrorInvalidValue;
  ArgMaxKernel<<<static_cast<unsigned>(rows), 1024, 0, stream>>>(x, static_cast<int>(n), indices,
                                                                 values);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda
