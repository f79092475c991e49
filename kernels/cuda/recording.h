// Operations as a CUDA graph. The first run asks for them one by one, so that libraries and kernels
// are loaded; the second records them; later ones start the graph.
#ifndef MSA_KERNELS_CUDA_RECORDING_H_
#define MSA_KERNELS_CUDA_RECORDING_H_

#include <functional>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "kernels/cuda/device.h"

namespace msa::kernels::cuda {

// `launching` is held while a graph is started: it keeps operations of other threads that are
// several kernels from being torn apart. Both must outlive the result. What cannot be recorded runs
// one by one for ever, with a line in the log.
std::unique_ptr<Recording> MakeRecording(Device& device, absl::Mutex& launching,
                                         std::function<void()> operations);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_RECORDING_H_
