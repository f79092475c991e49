#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/routing_bound.h"
#include "kernels/cuda/routing_pass.h"
#include "kernels/cuda/routing_wide.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kErrorThreads = 1024;
constexpr int kErrorWarps = kErrorThreads / 32;
constexpr int kMaxQuestions = 64;  // of one launch
// Norms are sums of up to 4,096 squares in float32, a lane's 128 one after the other: this covers
// what they lose, twice over.
constexpr float kRoundUp = 1.0f + 1.0f / (1 << 14);
// Rows below have squares that float32 loses; from here on, what is lost is less than what is
// allowed for the sums.
constexpr float kTinyNorm = 1e-10f;
// What 16 products lose where they are added, in ulps of |q|·|k|: 6 for every 4 of them on the
// units that take the fewest at a time.
constexpr int kLossOfStep = 24;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float ToFloat(int8_t x) { return x; }
__device__ float ToFloat(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

__device__ float SumOfWarp(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ float LargerOrNan(float a, float b) { return b > a || b != b ? b : a; }

__device__ float MaxOfWarp(float x) {
  for (int step = 16; step > 0; step /= 2) x = LargerOrNan(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

// As integers, numbers that are not negative are in their own order, and NaN is above them.
__device__ void AtomicRaise(float* to, float value) {
  atomicMax(reinterpret_cast<int*>(to), __float_as_int(fabsf(value)));
}

// Of a row of a question.
struct RowNorms {
  float whole;     // |q|
  float residual;  // |q - q̂|
  float largest;   // max |q_i|
};

// q̂ of one element. fp16 halves are of the row scaled by a power of two, which is exact but for
// what falls below fp16's smallest numbers: 2^-25 of a scale of at least the largest / 2^13.
__device__ float Rounded(KeyFormat format, float x) {
  return format == KeyFormat::kBFloat16 ? __bfloat162float(__float2bfloat16_rn(x))
                                        : __half2float(__float2half_rn(x));
}

__device__ RowNorms NormsOf(const float* row, int width, KeyFormat format, bool one_piece) {
  const int lane = threadIdx.x % 32;
  RowNorms norms = {0, 0, 0};
#pragma unroll 16
  for (int i = lane; i < width; i += 32) {
    norms.largest = LargerOrNan(norms.largest, fabsf(row[i]));
    norms.whole = fmaf(row[i], row[i], norms.whole);
  }
  norms.whole = sqrtf(SumOfWarp(norms.whole)) * kRoundUp;
  norms.largest = MaxOfWarp(norms.largest);
  if (norms.whole < kTinyNorm) {  // rounding takes no more from an element than there is
    norms.whole = norms.residual = norms.largest * sqrtf(static_cast<float>(width)) * kRoundUp;
    return norms;
  }
  if (format == KeyFormat::kInt8 && !one_piece) return norms;
  float scale = one_piece ? IntegerScale(norms.largest, 1) : 1;
  if (format == KeyFormat::kFloat8 && norms.largest > 0 && isfinite(norms.largest)) {
    int exponent = 0;
    frexpf(norms.largest, &exponent);
    scale = ldexpf(1.0f, max(exponent - 12, -120));  // as ColumnScale of the pass
  }
#pragma unroll 4
  for (int i = lane; i < width; i += 32) {
    const float rounded = one_piece ? static_cast<float>(__float2int_rn(row[i] / scale))
                                    : Rounded(format, row[i] / scale);
    const float rest = fmaf(-rounded, scale, row[i]);
    norms.residual = fmaf(rest, rest, norms.residual);
  }
  norms.residual = sqrtf(SumOfWarp(norms.residual)) * kRoundUp;
  return norms;
}

// Of a row, for keys of norm 1.
__device__ float ErrorOfRow(const RowNorms& norms, int width, KeyFormat format, bool one_piece) {
  constexpr float kUlp = 1.0f / (1 << 23);
  if (format == KeyFormat::kInt8) {
    // Digits are the row in steps of its largest / 32,512 (of one piece: the residual) and
    // / 8,323,072, rounded; sums are exact until the pieces come together in float32.
    const float of_pass = one_piece ? 0 : 0.51f / 32512;
    const float steps = norms.largest * (of_pass + 1.02f / 8323072) + 2e-37f;
    const float rounding = sqrtf(static_cast<float>(width)) * steps * kRoundUp;
    return norms.residual + rounding + 8 * kUlp * (norms.whole + norms.residual);
  }
  // The exact pass adds the residual, rounded by 2^-8 of itself at most, in one more product. Both
  // passes add up in steps; 4 for the last additions and scales, 1.01 for |q̂| / |q|.
  const float adding = (2 * (width / 16 + 1) * kLossOfStep + 4) * kUlp;
  return norms.residual * (1 + 1.0f / 128) + adding * 1.01f * norms.whole;
}

struct ErrorsArgs {
  const RoutingSegment* segments = nullptr;
  int num_segments = 0;
  const float* queries = nullptr;
  int width = 0;
  KeyFormat format = KeyFormat::kBFloat16;
  bool one_piece = false;
  float scale = 1.0f;
  float* errors = nullptr;
  int32_t query_begin[kMaxQuestions + 1];
};

// A block a question, a warp a row.
__global__ void __launch_bounds__(kErrorThreads)
    ErrorsKernel(const __grid_constant__ ErrorsArgs args) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int question = static_cast<int>(blockIdx.x);
  float max_norm = 0;
  for (int i = lane; i < args.num_segments; i += 32) {
    max_norm = LargerOrNan(max_norm, *args.segments[i].max_norm);
  }
  max_norm = MaxOfWarp(max_norm);
  float error = 0;
  for (int32_t row = args.query_begin[question] + warp; row < args.query_begin[question + 1];
       row += kErrorWarps) {
    const RowNorms norms = NormsOf(args.queries + static_cast<int64_t>(row) * args.width,
                                   args.width, args.format, args.one_piece);
    error = LargerOrNan(error, ErrorOfRow(norms, args.width, args.format, args.one_piece));
  }
  __shared__ float of_warp[kErrorWarps];
  if (lane == 0) of_warp[warp] = error;
  __syncthreads();
  if (warp != 0) return;
  error = MaxOfWarp(of_warp[lane]);
  if (lane == 0) args.errors[question] = fabsf(error * max_norm * args.scale * kRoundUp);
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    NormsKernel(const Key* keys, const float* scales, int64_t num_chunks, int width,
                float* max_norm) {
  float largest = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
       chunk < num_chunks; chunk += stride) {
    float squares = 0;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < width; i += 32) {
      const float x = ToFloat(keys[chunk * width + i]);
      squares = fmaf(x, x, squares);
    }
    const float norm = sqrtf(SumOfWarp(squares)) * kRoundUp;
    largest = LargerOrNan(largest, scales == nullptr ? norm : norm * scales[chunk]);
  }
  if (threadIdx.x % 32 == 0) AtomicRaise(max_norm, largest);
}

template <typename Key>
cudaError_t LaunchNorms(const void* keys, const float* scales, int64_t num_chunks, int width,
                        float* max_norm, cudaStream_t stream) {
  const int64_t blocks = std::clamp<int64_t>((num_chunks + kWarps - 1) / kWarps, 1, 1024);
  NormsKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      static_cast<const Key*>(keys), scales, num_chunks, width, max_norm);
  return cudaGetLastError();
}

}  // namespace

bool CanBoundErrors(const RoutingArgs& scan) {
  return HasFastPath(scan) && scan.shape.query != Reduce::kMean &&
         (scan.format == KeyFormat::kBFloat16 || scan.format == KeyFormat::kInt8 ||
          scan.format == KeyFormat::kFloat8);
}

cudaError_t ScoreErrors(const RoutingArgs& scan, float* errors, cudaStream_t stream) {
  if (!CanBoundErrors(scan)) return cudaErrorInvalidValue;
  ErrorsArgs args;
  args.segments = scan.segments;
  args.num_segments = scan.num_segments;
  args.queries = scan.queries;
  args.width = scan.shape.key_width();
  args.format = scan.format;
  args.one_piece = TakesOnePiece(scan);
  args.scale = scan.shape.scale;
  for (int first = 0; first < scan.num_questions; first += kMaxQuestions) {
    const int count = std::min(kMaxQuestions, scan.num_questions - first);
    std::copy_n(scan.host_query_begin + first, count + 1, args.query_begin);
    args.errors = errors + first;
    ErrorsKernel<<<count, kErrorThreads, 0, stream>>>(args);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t RaiseMaxNorm(const void* keys, KeyFormat format, const float* scales,
                         int64_t num_chunks, int width, float* max_norm, cudaStream_t stream) {
  if (num_chunks == 0) return cudaSuccess;
  switch (format) {
    case KeyFormat::kFloat32:
      return LaunchNorms<float>(keys, scales, num_chunks, width, max_norm, stream);
    case KeyFormat::kBFloat16:
      return LaunchNorms<__nv_bfloat16>(keys, scales, num_chunks, width, max_norm, stream);
    case KeyFormat::kInt8:
      return LaunchNorms<int8_t>(keys, scales, num_chunks, width, max_norm, stream);
    case KeyFormat::kFloat8:
      return LaunchNorms<__nv_fp8_e4m3>(keys, scales, num_chunks, width, max_norm, stream);
    case KeyFormat::kInt4:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace msa::kernels::cuda
