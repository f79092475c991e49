// Packs the rows of the questions into the fragments that the pass's matrix products take, and
// fills the scores with kNoScore.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFillBlocks = 128;

// An element of a column of the product.
__device__ float ColumnValue(const PrepareArgs& args, const ColumnTile& tile, int column, int k) {
  if (k >= args.width) return 0;
  if (!args.mean_rows) {
    const int64_t row = tile.row + min(column % kColumnsOfTile, tile.count - 1);
    return args.queries[row * args.width + k];
  }
  double sum = 0;
  for (int64_t row = tile.row; row < tile.row + tile.count; ++row) {
    sum += args.queries[row * args.width + k];
  }
  return static_cast<float>(sum / tile.count);
}

// The column to shared memory. Returns max |x| over it; infinity where an element is not finite.
__device__ float LoadColumn(const PrepareArgs& args, const ColumnTile& tile, int column,
                            float* values) {
  float largest = 0;
#pragma unroll 4
  for (int k = threadIdx.x; k < args.padded_width; k += kThreads) {
    const float value = ColumnValue(args, tile, column, k);
    const float magnitude = fabsf(value);
    values[k] = value;
    largest = fmaxf(largest, isfinite(magnitude) ? magnitude : INFINITY);
  }
  __shared__ float of_warp[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
  __syncthreads();
  for (const float other : of_warp) largest = fmaxf(largest, other);
  return largest;
}

// The scale with which a column is packed: column = scale · packed. fp16 halves: a power of two
// that puts the largest element below 2^12, so that neither half overflows and the lower one keeps
// its bits. int8 pieces: the largest element becomes the largest integer of that many pieces.
__device__ float ColumnScale(const PrepareArgs& args, float magnitude) {
  if (!(magnitude > 0) || isinf(magnitude)) return 1;
  if (args.format == KeyFormat::kFloat8) {
    int exponent = 0;
    frexpf(magnitude, &exponent);
    return ldexpf(1.0f, max(exponent - 12, -120));
  }
  const float largest = args.pieces == 3 ? 127 * 65536.0f : args.pieces == 2 ? 127 * 256.0f : 127;
  return fmaxf(magnitude / largest, 1e-37f);
}

// bits of piece `piece` of value / scale: 16 of them, or 8 for int8.
__device__ uint32_t Piece(KeyFormat format, int pieces, int piece, float value) {
  if (format == KeyFormat::kBFloat16) {
    const __nv_bfloat16 high = __float2bfloat16_rn(value);
    if (piece == 0) return __bfloat16_as_ushort(high);
    return __bfloat16_as_ushort(__float2bfloat16_rn(value - __bfloat162float(high)));
  }
  if (format == KeyFormat::kFloat8) {
    const __half high = __float2half_rn(value);
    if (piece == 0) return __half_as_ushort(high);
    return __half_as_ushort(__float2half_rn(value - __half2float(high)));
  }
  // Digits of base 256 in -128 … 127, the first piece the highest.
  int32_t number = __float2int_rn(value);
  for (int i = pieces - 1; i > piece; --i) number = (number + 128) >> 8;
  return static_cast<uint32_t>(number - (piece > 0 ? ((number + 128) >> 8) * 256 : 0)) & 0xff;
}

// Elements of the width that thread t of a fragment's column holds in register r, element e: for
// 16-bit products e is 0 or 1, for int8 0 … 3.
__device__ int ElementOf(KeyFormat format, int t, int r, int e) {
  if (format == KeyFormat::kBFloat16) return 2 * t + 8 * r + e;
  if (format == KeyFormat::kFloat8) return 4 * t + 2 * r + e;  // bytes of the keys in a register
  return 4 * t + 16 * r + e;
}

__device__ void PackColumn(const PrepareArgs& args, int column) {
  extern __shared__ float values[];  // [padded_width]
  __shared__ int32_t sum;            // of the packed column, for kInt4
  const bool exists = column / kColumnsOfTile < args.num_tiles;
  const float magnitude =
      exists ? LoadColumn(args, args.tiles[column / kColumnsOfTile], column, values) : 0;
  const bool scaled = args.format == KeyFormat::kFloat8 || IsInteger(args.format);
  const bool finite = !scaled || !isinf(magnitude);
  const float scale = scaled ? ColumnScale(args, magnitude) : 1.0f;
  if (threadIdx.x == 0) {
    args.scaling->scale[column] = finite ? scale : NAN;
    sum = 0;
  }
  __syncthreads();

  const int step_width = StepWidth(args.format);
  const int step_bytes = PackedStepBytes(args.format, args.pieces);
  char* packed = static_cast<char*>(args.packed) + column / kColumnsOfTile * step_bytes;
  if (args.format == KeyFormat::kFloat32) {
    for (int k = threadIdx.x; k < args.padded_width; k += kThreads) {
      char* to = packed + k / step_width * args.tile_capacity * step_bytes;
      reinterpret_cast<float*>(to)[column % kColumnsOfTile * step_width + k % step_width] =
          exists ? values[k] : 0;
    }
    return;
  }
  // An item is a register of a fragment: a step, a thread of the column's four, one of two.
  const int elements = IsInteger(args.format) ? 4 : 2;
  int32_t own_sum = 0;
  for (int item = threadIdx.x; item < args.padded_width / step_width * 8; item += kThreads) {
    const int step = item / 8;
    const int t = item % 8 / 2;
    const int r = item % 2;
    uint32_t bits[3] = {};
    for (int e = 0; e < elements; ++e) {
      const int k = step * step_width + ElementOf(args.format, t, r, e);
      const float value = exists && finite ? values[k] / scale : 0;
      if (args.format == KeyFormat::kInt4) own_sum += __float2int_rn(value);
#pragma unroll
      for (int p = 0; p < 3; ++p) {
        if (p >= args.pieces) break;
        bits[p] |= Piece(args.format, args.pieces, p, value) << (32 / elements * e);
      }
    }
    char* to = packed + step * args.tile_capacity * step_bytes;
    const int lane = column % kColumnsOfTile * 4 + t;
#pragma unroll
    for (int p = 0; p < 3; ++p) {
      if (p >= args.pieces) break;
      reinterpret_cast<uint32_t*>(to)[(p * 32 + lane) * 2 + r] = bits[p];
    }
  }
  if (args.format != KeyFormat::kInt4) return;
  atomicAdd(&sum, own_sum);
  __syncthreads();
  if (threadIdx.x == 0) args.scaling->offset[column] = -7.5f * static_cast<float>(sum);
}

__global__ void __launch_bounds__(kThreads)
    PrepareKernel(const __grid_constant__ PrepareArgs args) {
  if (!args.early) AllowDependents();
  const int num_columns = args.tile_capacity * kColumnsOfTile;
  const int block = static_cast<int>(blockIdx.x);
  if (block < num_columns) {
    PackColumn(args, block);
  } else {
    const int64_t stride = static_cast<int64_t>(gridDim.x - num_columns) * kThreads;
    for (int64_t i = static_cast<int64_t>(block - num_columns) * kThreads + threadIdx.x;
         i < args.fill_count; i += stride) {
      args.fill[i] = kNoScore;
    }
  }
  // Started early: who waits for this kernel has waited for the one before, and none that follows
  // starts before that one has ended.
  WaitForPrerequisites();
}

}  // namespace

cudaError_t LaunchPrepare(const PrepareArgs& args, cudaStream_t stream) {
  // The carve-out of the pass that follows, so that it can start on the same multiprocessors.
  const cudaError_t error =
      cudaFuncSetAttribute(PrepareKernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                           cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  const int64_t blocks = (args.fill_count + 4 * kThreads - 1) / (4 * kThreads);
  const int fill_blocks =
      args.fill == nullptr ? 0 : static_cast<int>(std::min<int64_t>(blocks, kFillBlocks));
  const int num_blocks = args.tile_capacity * kColumnsOfTile + fill_blocks;
  const size_t shared_bytes = args.padded_width * sizeof(float);
  if (args.early) {
    return LaunchDependentWith(shared_bytes, PrepareKernel, num_blocks, kThreads, stream, args);
  }
  PrepareKernel<<<num_blocks, kThreads, shared_bytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda
