// The collective of several GPUs of one process: NCCL, opened when it is asked for, so that a
// machine with one GPU needs none of it.
#ifndef MSA_KERNELS_CUDA_NCCL_COLLECTIVE_H_
#define MSA_KERNELS_CUDA_NCCL_COLLECTIVE_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/collective.h"
#include "kernels/cuda/device.h"

namespace msa::kernels::cuda {

struct NcclOptions {
  // Of a gather, the work its members were given before included.
  absl::Duration timeout = absl::Seconds(10);
  // Of what NCCL does when it starts.
  absl::Duration start_timeout = absl::Seconds(60);
};

// Devices, at least two, are borrowed and must be different GPUs. FAILED_PRECONDITION saying what
// is missing: the library, or NCCL's own reason why it does not start.
absl::StatusOr<std::unique_ptr<Collective>> MakeNcclCollective(std::vector<Device*> devices,
                                                               const NcclOptions& options);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_NCCL_COLLECTIVE_H_
