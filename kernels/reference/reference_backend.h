// The oracle: every operation written as its definition reads, sums in double precision, one
// thread. Slow on purpose; nothing here is shared with the backends that it judges.
#ifndef MSA_KERNELS_REFERENCE_REFERENCE_BACKEND_H_
#define MSA_KERNELS_REFERENCE_REFERENCE_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace msa::kernels {

std::unique_ptr<Backend> MakeReferenceBackend();

}  // namespace msa::kernels

#endif  // MSA_KERNELS_REFERENCE_REFERENCE_BACKEND_H_
