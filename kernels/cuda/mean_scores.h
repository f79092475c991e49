// Means of scores over layers, on the GPU.
#ifndef MSA_KERNELS_CUDA_MEAN_SCORES_H_
#define MSA_KERNELS_CUDA_MEAN_SCORES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace msa::kernels::cuda {

// Backend::MeanOfScores; the array of pointers [num_layers] is on the device too.
cudaError_t MeanOfScores(const float* const* scores, int num_layers, int64_t n, float* mean,
                         cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_MEAN_SCORES_H_
