// Softmax attention as defined: all scores of a query and head, their softmax, the weighted sum.
#ifndef MSA_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_
#define MSA_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_

#include "kernels/types.h"

namespace msa::kernels {

void ReferenceAttend(const AttentionArgs& args);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_
