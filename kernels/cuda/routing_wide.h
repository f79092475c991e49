// The routing pass for many rows of questions (QueryPrecision::kThroughput, kOnePiece;
// keys of 8 bits with kSplit too), limited by the matrix units. Internal to routing*.cu.
#ifndef MSA_KERNELS_CUDA_ROUTING_WIDE_H_
#define MSA_KERNELS_CUDA_ROUTING_WIDE_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

constexpr int kBlockColumns = 256;  // at most
constexpr int kBlockTiles = kBlockColumns / kColumnsOfTile;
constexpr int kMaxBlocks = 16;        // of columns, in one pass
constexpr int kWideSliceBytes = 128;  // of a key

// Bytes of a column that meet them: fp8 keys are widened to 16 bits, their columns have these.
__host__ __device__ constexpr int ColumnSliceBytes(KeyFormat format) {
  return format == KeyFormat::kFloat8 ? 2 * kWideSliceBytes : kWideSliceBytes;
}

struct WideArgs {
  const RoutingSegment* segments = nullptr;
  int num_segments = 0;
  int64_t num_chunks = 0;
  const float* queries = nullptr;
  int width = 0;
  KeyFormat format = KeyFormat::kBFloat16;
  int pieces = 1;  // WidePieces
  int row_bytes = 0;
  int num_slices = 0;
  int num_blocks = 0;
  int block_tiles = 0;  // column tiles of a block of columns, pieces told apart
  int num_tiles = 0;
  // [num_blocks][num_slices][ColumnSliceBytes / 128][columns of a block][128 bytes, swizzled]
  char* packed = nullptr;
  float* column_scales = nullptr;  // [num_blocks · columns of a block]
  float scale = 1.0f;
  float* scores = nullptr;
  int64_t score_stride = 0;
  float* fill = nullptr;  // as in PrepareArgs
  int64_t fill_count = 0;
  uint32_t run_ends[kMaxBlocks];  // bit j: tile j is its question's last in the block
  ColumnTile tiles[kMaxBlocks * kBlockTiles];
};

// bf16, fp8 or int8 keys on a device of compute capability 9.0.
bool HasWidePass(KeyFormat format);

// Whether a scan's questions become one piece of 8 bits: kOnePiece, where there is such a pass.
bool TakesOnePiece(const RoutingArgs& scan);

// The scale with which a row is packed for int8 keys, by its largest element, which becomes the
// largest integer of so many pieces: row = scale · integers, rounded.
__device__ inline float IntegerScale(float largest, int pieces) {
  const float integer = pieces == 3 ? 127 * 65536.0f : pieces == 2 ? 127 * 256.0f : 127;
  return fmaxf(largest / integer, 1e-37f);
}

// Tiles that a tile of rows takes: int8 keys meet questions in pieces of 8 bits, fp8 keys in fp16
// halves, as many as the memory-bound pass's.
__host__ __device__ constexpr int WidePieces(KeyFormat format, QueryPrecision precision) {
  return format == KeyFormat::kBFloat16 ? 1 : QueryPieces(format, precision);
}

// Tiles of rows that a block of columns has at most.
__host__ __device__ constexpr int WideBlockRowTiles(int pieces) {
  return pieces == 3 ? 8 : kBlockTiles / pieces;
}

// Bytes of `packed` and `column_scales` at most.
size_t WidePackedBytes(KeyFormat format, int width, int num_blocks);

// Packs the questions into `packed` and `column_scales`, fills `fill`. Internal to LaunchWide.
cudaError_t LaunchPrepareWide(const WideArgs& args, cudaStream_t stream);

// Fills row_bytes, num_slices, num_blocks, block_tiles, run_ends, packed and column_scales and
// launches both kernels.
cudaError_t LaunchWide(WideArgs args, void* workspace, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_WIDE_H_
