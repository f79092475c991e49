#include "kernels/cuda/mean_scores.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    MeanKernel(const float* const* scores, int num_layers, int64_t n, float* mean) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  double sum = 0;
  for (int layer = 0; layer < num_layers; ++layer) sum += scores[layer][i];
  mean[i] = static_cast<float>(sum / num_layers);
}

}  // namespace

cudaError_t MeanOfScores(const float* const* scores, int num_layers, int64_t n, float* mean,
                         cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  MeanKernel<<<blocks, kThreads, 0, stream>>>(scores, num_layers, n, mean);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda
