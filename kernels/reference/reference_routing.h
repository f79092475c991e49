// Routing scores as defined: q·k for every head, token and chunk, then the reductions in order.
#ifndef MSA_KERNELS_REFERENCE_REFERENCE_ROUTING_H_
#define MSA_KERNELS_REFERENCE_REFERENCE_ROUTING_H_

#include "kernels/types.h"

namespace msa::kernels {

void ReferenceScoreParts(const ScoreArgs& args);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_REFERENCE_REFERENCE_ROUTING_H_
