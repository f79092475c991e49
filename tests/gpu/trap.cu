#include <cuda_runtime_api.h>

#include "tests/gpu/trap.h"

namespace msa::testing {
namespace {

__global__ void Trap() { asm("trap;"); }

}  // namespace

void BreakGpu(int ordinal) {
  cudaSetDevice(ordinal);
  Trap<<<1, 1>>>();
  cudaDeviceSynchronize();
}

}  // namespace msa::testing
