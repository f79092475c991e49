#include "kernels/cuda/append.h"
#include "kernels/cuda/elements.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One block a row and target.
__global__ void AppendKernel(const float* k, const float* v, int64_t width,
                             const AppendTarget* targets) {
  const AppendTarget target = targets[blockIdx.y];
  const int64_t row = blockIdx.x;
  if (row >= target.rows) return;
  const int64_t from = (target.first_row + row) * width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    StoreElement(target.k, target.type, row * width + i, k[from + i], 1.0f);
    StoreElement(target.v, target.type, row * width + i, v[from + i], 1.0f);
  }
}

}  // namespace

cudaError_t AppendRows(const float* k, const float* v, int64_t width, const AppendTarget* targets,
                       int num_targets, int64_t max_rows, cudaStream_t stream) {
  if (num_targets == 0 || max_rows == 0) return cudaSuccess;
  if (num_targets > 65535 || max_rows > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(max_rows), static_cast<unsigned>(num_targets));
  AppendKernel<<<grid, kThreads, 0, stream>>>(k, v, width, targets);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda
