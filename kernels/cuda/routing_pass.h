// What the steps of a routing pass tell each other. Internal to routing*.cu. Plain data.
//
// The rows of the questions become columns of the matrix product, 8 to a tile; a tile belongs to
// one question, and a question's last tile repeats its last row, which changes no maximum.
#ifndef MSA_KERNELS_CUDA_ROUTING_PASS_H_
#define MSA_KERNELS_CUDA_ROUTING_PASS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {

constexpr int kColumnsOfTile = 8;
constexpr int kMaxTiles = 8;        // column tiles of one pass over the keys
constexpr int kMaxKeyWidth = 4096;  // of the tensor-core pass
constexpr int kInt4Group = 64;      // elements of kInt4 keys that lie in 32 bytes

// Integer products.
__host__ __device__ constexpr bool IsInteger(KeyFormat format) {
  return format == KeyFormat::kInt8 || format == KeyFormat::kInt4;
}

// 8-bit pieces or 16-bit halves a question's element becomes.
__host__ __device__ constexpr int QueryPieces(KeyFormat format, QueryPrecision precision) {
  const bool one_piece = precision == QueryPrecision::kOnePiece;
  const int single = format == KeyFormat::kInt8 && !one_piece ? 2 : 1;
  return precision == QueryPrecision::kSplit && format != KeyFormat::kFloat32 ? single + 1 : single;
}

// Elements of a key in so many bytes, and back.
__host__ __device__ constexpr int KeyElements(KeyFormat format, int bytes) {
  return format == KeyFormat::kInt4       ? bytes * 2
         : format == KeyFormat::kFloat32  ? bytes / 4
         : format == KeyFormat::kBFloat16 ? bytes / 2
                                          : bytes;
}
__host__ __device__ constexpr int KeyBytes(KeyFormat format, int elements) {
  return format == KeyFormat::kInt4       ? elements / 2
         : format == KeyFormat::kFloat32  ? elements * 4
         : format == KeyFormat::kBFloat16 ? elements * 2
                                          : elements;
}

// Elements of a key that one matrix product takes.
__host__ __device__ constexpr int StepWidth(KeyFormat format) {
  return format == KeyFormat::kFloat32 ? 4 : IsInteger(format) ? 32 : 16;
}

// Bytes of packed queries for a step and a tile of columns: fragments of 8 bytes a lane and piece,
// or the floats themselves.
__host__ __device__ constexpr int PackedStepBytes(KeyFormat format, int pieces) {
  return format == KeyFormat::kFloat32 ? 4 * 4 * kColumnsOfTile : 32 * 8 * pieces;
}

// What turns the sums of a column into dot products: (sum + offset) · scale.
struct ColumnScaling {
  float scale[kMaxTiles * kColumnsOfTile];
  float offset[kMaxTiles * kColumnsOfTile];  // kInt4 only
};

struct ColumnTile {
  int32_t row = 0;    // first row of the queries
  int32_t count = 0;  // rows, 1 … 8
  int32_t question = 0;
};

struct PrepareArgs {
  const float* queries = nullptr;
  int width = 0;
  int padded_width = 0;  // a multiple of StepWidth
  KeyFormat format = KeyFormat::kBFloat16;
  int pieces = 1;
  bool mean_rows = false;  // every column is the mean of the tile's rows, which may be many
  int num_tiles = 0;
  int tile_capacity = 1;  // tiles of the packed array; those from num_tiles on are zeros
  ColumnTile tiles[kMaxTiles];
  void* packed = nullptr;            // out [padded_width / step][tile_capacity][PackedStepBytes]
  ColumnScaling* scaling = nullptr;  // out
  float* fill = nullptr;             // out [fill_count]: kNoScore, unless null
  int64_t fill_count = 0;
  bool early = false;  // as in ListedArgs
};

struct PassArgs {
  const RoutingSegment* segments = nullptr;
  int num_segments = 0;
  int64_t num_chunks = 0;
  int row_bytes = 0;  // of a key
  int num_slices = 0;
  int num_stages = 0;
  int packed_bytes = 0;
  const void* packed = nullptr;
  const ColumnScaling* scaling = nullptr;
  float scale = 1.0f;
  float* scores = nullptr;
  int64_t score_stride = 0;
  int num_tiles = 0;
  int32_t question[kMaxTiles];
};

cudaError_t LaunchPrepare(const PrepareArgs& args, cudaStream_t stream);

// Column tiles that one pass can hold, at most `wanted`; 0 when the width is too much for the
// device's shared memory. Depends on the device that is current.
int PassCapacity(KeyFormat format, int pieces, int width, int wanted);

// `capacity` as PassCapacity said. Fills num_slices, num_stages, packed_bytes and launches.
cudaError_t LaunchPass(KeyFormat format, int pieces, int capacity, int width, PassArgs args,
                       cudaStream_t stream);

// Width that the packed queries of such a pass have.
int PassPaddedWidth(KeyFormat format, int width);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_PASS_H_
