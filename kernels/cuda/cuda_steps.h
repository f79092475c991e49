// Decode steps whose operations can be recorded as a CUDA graph: everything that changes from step
// to step is read from device memory.
#ifndef MSA_KERNELS_CUDA_CUDA_STEPS_H_
#define MSA_KERNELS_CUDA_CUDA_STEPS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/device.h"
#include "kernels/decode_steps.h"

namespace msa::kernels::cuda {

// `device` must outlive it. `kv_type`: of the sequences' own rows. RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<DecodeSteps>> MakeCudaSteps(Device& device, const DecodeShape& shape,
                                                           AttentionPrecision precision,
                                                           ElementType kv_type, int max_sequences);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_CUDA_STEPS_H_
