// The best parts of each question, in the order of Precedes (common/routing.h), on the GPU.
#ifndef MSA_KERNELS_CUDA_TOPK_H_
#define MSA_KERNELS_CUDA_TOPK_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace msa::kernels::cuda {

inline constexpr int kMaxTopK = 1024;

// Device memory unless said.
struct TopKArgs {
  const float* scores = nullptr;        // [num_questions, stride]
  const int64_t* references = nullptr;  // [num_candidates]; null: the candidate's index
  const uint8_t* visible = nullptr;     // [num_candidates], 0 = masked; null: all
  int num_questions = 0;
  int64_t num_candidates = 0;  // at most 2^31 - 1
  int64_t stride = 0;          // of scores, at least num_candidates
  int k = 0;                   // 1 … kMaxTopK
  // out, best first: [num_questions, k], kNoScore / -1 / -1 behind the last; kNoScore and NaN are
  // never taken.
  float* best_scores = nullptr;
  int64_t* best_references = nullptr;
  int32_t* best_indices = nullptr;  // columns of scores; may be null
  int32_t* best_counts = nullptr;   // [num_questions]; may be null
};

// Bytes of workspace, 256-byte aligned.
size_t TopKWorkspaceBytes(int num_questions, int64_t num_candidates, int k);

// Two kernels: the best k of every slice of candidates, then of those. Does not allocate or
// synchronise; may be captured. cudaErrorInvalidValue for a size out of range.
cudaError_t SelectTopK(const TopKArgs& args, void* workspace, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_TOPK_H_
