// The beginning of a decode step on the device: its tokens, and every layer's lengths.
#ifndef MSA_KERNELS_CUDA_STEP_START_H_
#define MSA_KERNELS_CUDA_STEP_START_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace msa::kernels::cuda {

// A step's numbers, three arrays of `stride` int32 each, `stride` from one another: token ids,
// positions, own rows before the step.
struct StepStartArgs {
  const int32_t* from = nullptr;  // pinned memory of the processor
  int32_t* to = nullptr;          // the same on the device
  int stride = 0;
  int rows = 0;
  int num_layers = 0;
  void* table = nullptr;  // StepTable's on the device
  size_t layer_bytes = 0;
  size_t views_offset = 0;
};

// The table's sequences then see one token more than they had. One kernel.
cudaError_t StartStep(const StepStartArgs& args, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_STEP_START_H_
