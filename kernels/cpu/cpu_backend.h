// The backend of ordinary processors: Highway kernels chosen at run time for the instruction set
// found, oneDNN for products of many rows, one pool of threads for all of it.
#ifndef MSA_KERNELS_CPU_CPU_BACKEND_H_
#define MSA_KERNELS_CPU_CPU_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace msa::kernels {

// num_threads 0 = one a core. The pool belongs to the backend and divides all work, the library's
// products too: two pools of threads on the same cores only slow each other down.
std::unique_ptr<Backend> MakeCpuBackend(int num_threads);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_CPU_BACKEND_H_
