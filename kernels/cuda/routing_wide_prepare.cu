// Packs the rows of the questions for the warpgroup products of routing_wide.cu, and fills the
// scores with kNoScore.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/routing_wide.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kPrepareThreads = 128;
constexpr int kFillBlocks = 128;

// The scale with which a column is packed, by its largest element: column = scale · packed, as in
// routing_prepare.cu.
template <KeyFormat kFormat>
__device__ float ColumnScale(float largest, int pieces) {
  if (isinf(largest)) return NAN;
  if (kFormat == KeyFormat::kFloat8) {
    int exponent = 0;
    frexpf(largest, &exponent);
    return largest > 0 ? ldexpf(1.0f, max(exponent - 12, -120)) : 1.0f;
  }
  return IntegerScale(largest, pieces);
}

// Digits of base 256 in -128 … 127, the first piece the highest.
__device__ int8_t Digit(int32_t number, int pieces, int piece) {
  for (int i = pieces - 1; i > piece; --i) number = (number + 128) >> 8;
  return static_cast<int8_t>(number - (piece > 0 ? ((number + 128) >> 8) * 256 : 0));
}

// The element of the width at place k of a column. fp8: bytes 4t … 4t+3 of 16 of a key lie in one
// register of thread t and become its two of a fragment.
template <KeyFormat kFormat>
__device__ int ElementAt(int k) {
  if (kFormat != KeyFormat::kFloat8) return k;
  return k / 16 * 16 + k % 8 / 2 * 4 + k % 16 / 8 * 2 + k % 2;
}

// One block a column: 16 bytes of the swizzled image a thread and turn.
template <KeyFormat kFormat>
__device__ void PackColumn(const WideArgs& args, int column) {
  constexpr int kElements = kFormat == KeyFormat::kInt8 ? 16 : 8;
  constexpr int kUnits = ColumnSliceBytes(kFormat) / 16;
  const int pieces = kFormat == KeyFormat::kBFloat16 ? 1 : args.pieces;
  const int piece = column / kColumnsOfTile % pieces;
  const int tile_index = column / (kColumnsOfTile * pieces);
  const bool exists = tile_index < args.num_tiles;
  const ColumnTile tile = exists ? args.tiles[tile_index] : ColumnTile{};
  const int64_t row = tile.row + min(column % kColumnsOfTile, max(tile.count, 1) - 1);
  const float* query = args.queries + row * args.width;
  float scale = 1;
  if (kFormat != KeyFormat::kBFloat16 && exists) {
    __shared__ float largest_of_warp[kPrepareThreads / 32];
    float largest = 0;
    for (int k = threadIdx.x; k < args.width; k += kPrepareThreads) {
      const float magnitude = fabsf(query[k]);
      largest = fmaxf(largest, isfinite(magnitude) ? magnitude : INFINITY);
    }
    for (int step = 16; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    }
    if (threadIdx.x % 32 == 0) largest_of_warp[threadIdx.x / 32] = largest;
    __syncthreads();
    for (const float other : largest_of_warp) largest = fmaxf(largest, other);
    scale = ColumnScale<kFormat>(largest, pieces);
  }
  if (threadIdx.x == 0) args.column_scales[column] = scale;
  const int columns = args.block_tiles * kColumnsOfTile;
  const int column_stage = columns * ColumnSliceBytes(kFormat);
  char* image =
      args.packed + static_cast<int64_t>(column / columns) * args.num_slices * column_stage;
  const int in_block = column % columns;
  for (int item = threadIdx.x; item < args.num_slices * kUnits; item += kPrepareThreads) {
    alignas(16) char unit[16] = {};
    for (int e = 0; e < kElements; ++e) {
      const int k = ElementAt<kFormat>(item * kElements + e);
      const float value = exists && k < args.width ? query[k] : 0;
      if constexpr (kFormat == KeyFormat::kFloat8) {
        const float scaled = isfinite(scale) ? value / scale : 0.0f;
        const __half high = __float2half_rn(scaled);
        reinterpret_cast<__half*>(unit)[e] =
            piece == 0 ? high : __float2half_rn(scaled - __half2float(high));
      } else if constexpr (kFormat == KeyFormat::kInt8) {
        const int number = isfinite(scale) ? __float2int_rn(value / scale) : 0;
        reinterpret_cast<int8_t*>(unit)[e] = Digit(number, pieces, piece);
      } else {
        reinterpret_cast<__nv_bfloat16*>(unit)[e] = __float2bfloat16_rn(value);
      }
    }
    char* to = image + static_cast<int64_t>(item / kUnits) * column_stage +
               (item % kUnits / 8 * columns + in_block) * kWideSliceBytes +
               ((item ^ in_block) & 7) * 16;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(unit);
  }
}

template <KeyFormat kFormat>
__global__ void __launch_bounds__(kPrepareThreads)
    PrepareWideKernel(const __grid_constant__ WideArgs args) {
  AllowDependents();
  const int num_columns = args.num_blocks * args.block_tiles * kColumnsOfTile;
  const int block = static_cast<int>(blockIdx.x);
  if (block < num_columns) return PackColumn<kFormat>(args, block);
  const int64_t stride = static_cast<int64_t>(gridDim.x - num_columns) * kPrepareThreads;
  for (int64_t i = static_cast<int64_t>(block - num_columns) * kPrepareThreads + threadIdx.x;
       i < args.fill_count; i += stride) {
    args.fill[i] = kNoScore;
  }
}

template <KeyFormat kFormat>
cudaError_t LaunchPrepare(const WideArgs& args, cudaStream_t stream) {
  const int fill_blocks = static_cast<int>(std::min<int64_t>(
      (args.fill_count + 4 * kPrepareThreads - 1) / (4 * kPrepareThreads), kFillBlocks));
  const int num_columns = args.num_blocks * args.block_tiles * kColumnsOfTile;
  PrepareWideKernel<kFormat><<<num_columns + fill_blocks, kPrepareThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPrepareWide(const WideArgs& args, cudaStream_t stream) {
  switch (args.format) {
    case KeyFormat::kFloat8:
      return LaunchPrepare<KeyFormat::kFloat8>(args, stream);
    case KeyFormat::kInt8:
      return LaunchPrepare<KeyFormat::kInt8>(args, stream);
    default:
      return LaunchPrepare<KeyFormat::kBFloat16>(args, stream);
  }
}

}  // namespace msa::kernels::cuda
