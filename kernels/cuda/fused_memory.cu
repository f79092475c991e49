// What documents pass through on their way into memory, and queries on their way to routing: chunk
// pooling, norms, folding, precision.
#include <algorithm>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr float kNormFloor = 1e-12f;
constexpr int kRowThreads = 256;
constexpr int kMaxPoolWidth = 8192;

__device__ __forceinline__ float InverseNorm(float squares) {
  return 1.0f / fmaxf(sqrtf(squares), kNormFloor);
}

// fmaxf would lose a NaN norm, and with it a NaN of the row; NaN elements stay NaN by themselves,
// the others must become so too.
__device__ __forceinline__ float NormFactor(float squares) {
  return isnan(squares) ? squares : InverseNorm(squares);
}

// One warp a row: rows are heads, at most some hundred elements.
__global__ void L2NormalizeKernel(float* x, int64_t rows, int64_t width) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (warp >= rows) return;
  const int lane = threadIdx.x % kWarp;
  float* row = x + warp * width;
  float squares = 0.0f;
  for (int64_t i = lane; i < width; i += kWarp) squares += row[i] * row[i];
  const float factor = NormFactor(WarpSum(squares));
  for (int64_t i = lane; i < width; i += kWarp) row[i] *= factor;
}

__global__ void FoldQueriesKernel(const float* q, int64_t n, int group, int head_dim,
                                  float inverse_heads, float* out) {
  ForEach(n, [&](int64_t i) {
    const float* heads = q + i / head_dim * group * head_dim + i % head_dim;
    float sum = heads[0];
    for (int h = 1; h < group; ++h) sum += heads[h * head_dim];
    out[i] = sum * inverse_heads;
  });
}

__global__ void ConvertKernel(const float* x, int64_t n, ElementType type, void* out) {
  ForEach(n, [&](int64_t i) { StoreElement(out, type, i, x[i], 1.0f); });
}

// One block a row.
__global__ void QuantizeRowsKernel(const float* x, int64_t width, ElementType type, void* out,
                                   float* scales) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    largest = MaxOrNan(largest, fabsf(x[row + i]));
  }
  largest = BlockReduce(largest, 0.0f, MaxOrNan);
  const float scale = __fdiv_rn(largest, LargestStep(type));
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    StoreElement(out, type, row + i, x[row + i], scale);
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

__global__ void DequantizeKernel(const void* x, const float* scales, int64_t n, int64_t width,
                                 ElementType type, float* out) {
  ForEach(n, [&](int64_t i) {
    const float steps = ElementAt(x, type, i);
    out[i] = scales != nullptr ? scales[i / width] * steps : steps;
  });
}

struct ChunkRows {
  int64_t begin;
  int64_t end;
};

__device__ __forceinline__ ChunkRows RowsOf(const PoolArgs& args, int64_t chunk) {
  if (args.chunk_begin != nullptr) return {args.chunk_begin[chunk], args.chunk_begin[chunk + 1]};
  const int64_t begin = chunk * args.chunk_tokens;
  const int64_t end = begin + args.chunk_tokens;
  return {begin, end < args.num_tokens ? end : args.num_tokens};
}

// Of one column; rows are added in order, eight loads in flight.
__device__ __forceinline__ float MeanOfColumn(const PoolArgs& args, ChunkRows rows, int column) {
  const float* x = args.x + rows.begin * args.stride + column;
  float sum = x[0];
#pragma unroll 8
  for (int64_t t = 1; t < rows.end - rows.begin; ++t) sum += x[t * args.stride];
  return sum * (1.0f / static_cast<float>(rows.end - rows.begin));
}

// The chunk's mean into `mean` [width], each thread its own columns.
__device__ __forceinline__ void MeanOfChunk(const PoolArgs& args, ChunkRows rows, int width,
                                            float* mean) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) mean[i] = MeanOfColumn(args, rows, i);
}

__device__ __forceinline__ void NormaliseHeads(int num_heads, int head_dim, float* mean) {
  const int lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < num_heads; h += blockDim.x / kWarp) {
    float* head = mean + h * head_dim;
    float squares = 0.0f;
    for (int i = lane; i < head_dim; i += kWarp) squares += head[i] * head[i];
    const float factor = NormFactor(WarpSum(squares));
    for (int i = lane; i < head_dim; i += kWarp) head[i] *= factor;
  }
}

// Scales of `groups` runs of `group_width` elements, into shared and global memory.
__device__ __forceinline__ void ScalesOfGroups(const float* mean, int groups, int group_width,
                                               ElementType type, float* shared_scales,
                                               float* scales) {
  const int lane = threadIdx.x % kWarp;
  for (int g = threadIdx.x / kWarp; g < groups; g += blockDim.x / kWarp) {
    float largest = 0.0f;
    for (int i = lane; i < group_width; i += kWarp) {
      largest = MaxOrNan(largest, fabsf(mean[g * group_width + i]));
    }
    largest = WarpReduce(largest, MaxOrNan);
    if (lane == 0) shared_scales[g] = scales[g] = __fdiv_rn(largest, LargestStep(type));
  }
}

// Means alone need no other column: blocks y share a chunk's, a thread has one.
__global__ void PoolColumnsKernel(PoolArgs args, int width) {
  const int64_t chunk = blockIdx.x;
  const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= width) return;
  const float mean = MeanOfColumn(args, RowsOf(args, chunk), column);
  StoreElement(args.out, args.type, chunk * width + column, mean, 1.0f);
}

// One block a chunk; dynamic shared memory: the mean [width], then scales [num_heads].
__global__ void PoolChunksKernel(PoolArgs args) {
  extern __shared__ float mean[];
  const int64_t chunk = blockIdx.x;
  const int width = args.num_heads * args.head_dim;
  float* shared_scales = mean + width;
  MeanOfChunk(args, RowsOf(args, chunk), width, mean);
  __syncthreads();
  if (args.normalize) {
    NormaliseHeads(args.num_heads, args.head_dim, mean);
    __syncthreads();
  }
  const bool scaled = args.scales != nullptr;
  const int groups = args.scale_per_head ? args.num_heads : 1;
  const int group_width = width / groups;
  if (scaled) {
    ScalesOfGroups(mean, groups, group_width, args.type, shared_scales,
                   args.scales + chunk * groups);
    __syncthreads();
  }
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float scale = scaled ? shared_scales[i / group_width] : 1.0f;
    StoreElement(args.out, args.type, chunk * width + i, mean[i], scale);
  }
}

}  // namespace

cudaError_t L2Normalize(float* x, int64_t rows, int64_t head_dim, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const int64_t blocks = (rows * kWarp + kRowThreads - 1) / kRowThreads;
  L2NormalizeKernel<<<static_cast<unsigned>(blocks), kRowThreads, 0, stream>>>(x, rows, head_dim);
  return cudaGetLastError();
}

cudaError_t FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                        int head_dim, float* out, cudaStream_t stream) {
  const int64_t n = num_tokens * num_kv_heads * head_dim;
  if (n == 0) return cudaSuccess;
  FoldQueriesKernel<<<GridFor(n), kElementThreads, 0, stream>>>(
      q, n, num_q_heads / num_kv_heads, head_dim, 1.0f / static_cast<float>(num_q_heads), out);
  return cudaGetLastError();
}

cudaError_t Quantize(const float* x, int64_t rows, int64_t width, ElementType type, void* out,
                     float* scales, cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  if (IsScaled(type)) {
    QuantizeRowsKernel<<<static_cast<unsigned>(rows), width <= 128 ? 64 : kRowThreads, 0, stream>>>(
        x, width, type, out, scales);
  } else {
    ConvertKernel<<<GridFor(rows * width), kElementThreads, 0, stream>>>(x, rows * width, type,
                                                                         out);
  }
  return cudaGetLastError();
}

cudaError_t Dequantize(const void* x, const float* scales, int64_t rows, int64_t width,
                       ElementType type, float* out, cudaStream_t stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  DequantizeKernel<<<GridFor(rows * width), kElementThreads, 0, stream>>>(
      x, IsScaled(type) ? scales : nullptr, rows * width, width, type, out);
  return cudaGetLastError();
}

cudaError_t PoolChunks(const PoolArgs& args, cudaStream_t stream) {
  if (args.num_chunks == 0) return cudaSuccess;
  const int width = args.num_heads * args.head_dim;
  if (width < 1) return cudaErrorInvalidValue;
  if (!args.normalize && !IsScaled(args.type)) {
    const dim3 blocks(static_cast<unsigned>(args.num_chunks),
                      (width + kRowThreads - 1) / kRowThreads);
    PoolColumnsKernel<<<blocks, kRowThreads, 0, stream>>>(args, width);
    return cudaGetLastError();
  }
  if (width > kMaxPoolWidth) return cudaErrorInvalidValue;
  const size_t shared_bytes = (width + args.num_heads) * sizeof(float);
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        PoolChunksKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
    if (error != cudaSuccess) return error;
  }
  PoolArgs checked = args;
  if (!IsScaled(args.type)) checked.scales = nullptr;
  PoolChunksKernel<<<static_cast<unsigned>(args.num_chunks), kRowThreads, shared_bytes, stream>>>(
      checked);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda
