// Breaks a GPU for the process, as a fault of its memory does.
#ifndef MSA_TESTS_GPU_TRAP_H_
#define MSA_TESTS_GPU_TRAP_H_

namespace msa::testing {

// Every call of the runtime on the GPU fails afterwards.
void BreakGpu(int ordinal);

}  // namespace msa::testing

#endif  // MSA_TESTS_GPU_TRAP_H_
