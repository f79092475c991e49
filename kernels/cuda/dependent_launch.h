// Launches whose blocks may start while the kernel before them in the stream still runs (compute
// capability 9.0; before, they are ordinary ones). The kernel calls AllowDependents early, and
// WaitForPrerequisites before it reads anything that another kernel writes and before it writes
// (ListedArgs::early says why one may write first). Only for .cu files.
#ifndef MSA_KERNELS_CUDA_DEPENDENT_LAUNCH_H_
#define MSA_KERNELS_CUDA_DEPENDENT_LAUNCH_H_

#include <cuda_runtime.h>

namespace msa::kernels::cuda {

// 0 when the device cannot be asked: the launch will say why.
inline int ComputeMajor() {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    return 0;
  }
  return major;
}

// shared_bytes: of dynamic shared memory.
template <class... Parameters, class... Arguments>
cudaError_t LaunchDependentWith(size_t shared_bytes, void (*kernel)(Parameters...), dim3 grid,
                                dim3 block, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = ComputeMajor() >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <class... Parameters, class... Arguments>
cudaError_t LaunchDependent(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                            cudaStream_t stream, const Arguments&... arguments) {
  return LaunchDependentWith(0, kernel, grid, block, stream, arguments...);
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DEPENDENT_LAUNCH_H_
