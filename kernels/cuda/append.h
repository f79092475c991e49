// Rows of a batch to the K,V caches of its sequences, in one kernel.
#ifndef MSA_KERNELS_CUDA_APPEND_H_
#define MSA_KERNELS_CUDA_APPEND_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/element_type.h"

namespace msa::kernels::cuda {

// Consecutive rows of the batch, from first_row on, that go to k and v.
struct AppendTarget {
  void* k = nullptr;  // [rows, width] of `type`
  void* v = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  ElementType type = ElementType::kFloat32;  // or kBFloat16
};

// k, v [*, width]; `targets` [num_targets, at most 65,535] in device memory, the largest of
// `max_rows` rows.
cudaError_t AppendRows(const float* k, const float* v, int64_t width, const AppendTarget* targets,
                       int num_targets, int64_t max_rows, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_APPEND_H_
