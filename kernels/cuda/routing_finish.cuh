// What a finishing warp of the memory-bound pass makes of a tile's values: the best of each column
// tile by chunk become scores of parts. Only for routing_pass.cuh.
#ifndef MSA_KERNELS_CUDA_ROUTING_FINISH_CUH_
#define MSA_KERNELS_CUDA_ROUTING_FINISH_CUH_

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing_pass.h"

namespace msa::kernels::cuda {

// values[first tile of a question's run] = scale of the chunk · scale · best of its tiles.
template <int kTileRows>
__device__ void FoldTiles(const PassArgs& args, const float (&chunk_scales)[kTileRows / 32],
                          int rows, float (*values)[kTileRows]) {
#pragma unroll
  for (int i = 0; i < kTileRows / 32; ++i) {
    const int r = threadIdx.x % 32 + 32 * i;
    if (r >= rows) break;
    int first = 0;
    float best = values[0][r];
    for (int tile = 1; tile <= args.num_tiles; ++tile) {
      if (tile < args.num_tiles && args.question[tile] == args.question[first]) {
        best = MaxOrNan(best, values[tile][r]);
        continue;
      }
      values[first][r] = best * chunk_scales[i] * args.scale;
      if (tile == args.num_tiles) break;
      first = tile;
      best = values[tile][r];
    }
  }
}

// Best of chunks begin … end-1 of the tile to every question's score of a part.
template <int kTileRows>
__device__ void ScorePart(const PassArgs& args, int64_t column, int begin, int end,
                          const float (*values)[kTileRows]) {
  for (int tile = 0; tile < args.num_tiles; ++tile) {
    if (tile > 0 && args.question[tile] == args.question[tile - 1]) continue;
    float best = kNoScore;
    for (int r = begin; r < end; ++r) best = MaxOrNan(best, values[tile][r]);
    AtomicMaxOrNan(args.scores + args.question[tile] * args.score_stride + column, best);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_FINISH_CUH_
