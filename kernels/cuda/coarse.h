// Routing below the scan's floor: a pass over codes of 4 bits an element (an eighth of float32, a
// quarter of bf16), then the exact scores of the parts that looked best. The result is the full
// scan's, to the bit, as long as its best k are among the candidates; how often that holds is a
// property of the bank, to be measured on it (docs/decisions/0003-routing-on-gpus.md). Conventions:
// kernels/cuda/routing.h.
//
// A code c (0 … 15) stands for scale · (c - 7.5), one scale a chunk. Elements 64·i + j and
// 64·i + 32 + j (j < 32) are the low and the high half of byte 32·i + j: KeyFormat::kInt4.
#ifndef MSA_KERNELS_CUDA_COARSE_H_
#define MSA_KERNELS_CUDA_COARSE_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {

// Codes [num_chunks, width / 2] and scales [num_chunks] of keys in any format but kInt4. The scale
// is the one of a few whose codes are nearest. width is a multiple of 64. A chunk with NaN gets a
// NaN scale.
cudaError_t EncodeCoarse(const void* keys, KeyFormat format, const float* key_scales,
                         int64_t num_chunks, int width, uint8_t* codes, float* scales,
                         cudaStream_t stream);

struct CoarseArgs {
  // The exact scan. `scores` [num_questions, num_parts] is used for the coarse scores. Segments lie
  // in the order of their first_part. Mean heads, max chunks, scale >= 0, width a multiple of 64 up
  // to 4,096; not kThroughput.
  RoutingArgs scan;
  const RoutingSegment* codes = nullptr;  // [scan.num_segments], as the scan's but for the keys
  int num_candidates = 128;               // parts scored exactly: k … kMaxTopK
  // As in TopKArgs.
  const int64_t* references = nullptr;
  const uint8_t* visible = nullptr;
  int k = 16;
  float* best_scores = nullptr;
  int64_t* best_references = nullptr;
  int32_t* best_indices = nullptr;
  int32_t* best_counts = nullptr;
};

size_t CoarseWorkspaceBytes(const CoarseArgs& args);

// The best k parts of each question, from its num_candidates best by codes.
cudaError_t SelectTopKCoarse(const CoarseArgs& args, void* workspace, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_COARSE_H_
