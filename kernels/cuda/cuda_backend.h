// The backend of NVIDIA GPUs: this project's kernels for memory and attention, cuBLAS for dense
// products. The only header of this folder that others include.
#ifndef MSA_KERNELS_CUDA_CUDA_BACKEND_H_
#define MSA_KERNELS_CUDA_CUDA_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace msa::kernels {

// FAILED_PRECONDITION naming what is missing: a driver, the GPU asked for, a recent enough one.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CUDA_CUDA_BACKEND_H_
