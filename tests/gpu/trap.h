// What befalls a GPU, for the process that it befalls.
#ifndef MSA_TESTS_GPU_TRAP_H_
#define MSA_TESTS_GPU_TRAP_H_

namespace msa::testing {

// As a fault of its memory: every call of the runtime on the GPU fails afterwards.
void BreakGpu(int ordinal);
// No kernel that is started from then on ever begins, on any stream.
void HangGpu(int ordinal);

}  // namespace msa::testing

#endif  // MSA_TESTS_GPU_TRAP_H_
