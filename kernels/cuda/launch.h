// Grid-stride loops over elements. Only for .cu files.
#ifndef MSA_KERNELS_CUDA_LAUNCH_H_
#define MSA_KERNELS_CUDA_LAUNCH_H_

#include <cstdint>

namespace msa::kernels::cuda {

inline constexpr int kElementThreads = 256;

// Blocks for a grid-stride loop over n elements: enough to fill any chip, few enough to be cheap.
inline unsigned GridFor(int64_t n) {
  const int64_t blocks = (n + kElementThreads - 1) / kElementThreads;
  return static_cast<unsigned>(blocks < 8192 ? blocks : 8192);
}

// body(i) for every i < n, over the whole grid.
template <class Body>
__device__ __forceinline__ void ForEach(int64_t n, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    body(i);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_LAUNCH_H_
