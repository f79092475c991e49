#include <cuda_runtime_api.h>

#include "tests/gpu/trap.h"

namespace msa::testing {
namespace {

__global__ void Trap() { asm("trap;"); }

__global__ void Hang() {
  while (true) __nanosleep(1000);
}

}  // namespace

void BreakGpu(int ordinal) {
  cudaSetDevice(ordinal);
  Trap<<<1, 1>>>();
  cudaDeviceSynchronize();
}

void HangGpu(int ordinal) {
  constexpr int kMoreThanAtOnce = 4096;
  cudaSetDevice(ordinal);
  Hang<<<kMoreThanAtOnce, 1024>>>();
}

}  // namespace msa::testing
