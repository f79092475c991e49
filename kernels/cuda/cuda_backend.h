// The backend of NVIDIA GPUs: this project's kernels for memory and attention, cuBLAS for dense
// products. The only header of this folder that others include.
#ifndef MSA_KERNELS_CUDA_CUDA_BACKEND_H_
#define MSA_KERNELS_CUDA_CUDA_BACKEND_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/collective.h"

namespace msa::kernels {

// FAILED_PRECONDITION naming what is missing: a driver, the GPU asked for, a recent enough one;
// RESOURCE_EXHAUSTED for a GPU whose memory is taken.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options);

// One a GPU number, and what joins them (null for one GPU). FAILED_PRECONDITION, too, when NCCL is
// missing. The collective must go before the backends.
struct CudaBackends {
  std::vector<std::unique_ptr<Backend>> members;
  std::unique_ptr<Collective> collective;
};
absl::StatusOr<CudaBackends> MakeCudaBackends(const BackendOptions& options,
                                              const std::vector<int>& gpus);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CUDA_CUDA_BACKEND_H_
