// Whether the model of a node can fill and read a bank.
#ifndef MSA_COMPUTE_NODE_BANK_FIT_H_
#define MSA_COMPUTE_NODE_BANK_FIT_H_

#include "absl/status/status.h"
#include "compute_node/model/transformer.h"
#include "rpc/types.h"

namespace msa::compute_node {

// FAILED_PRECONDITION for another model's bank; INVALID_ARGUMENT for a description that says the
// fingerprint of this model and does not fit it, which only a peer in error sends: layers, heads,
// chunk sizes and precisions decide where blocks are written.
absl::Status CheckBankFits(const rpc::BankSpec& bank, const Transformer& transformer);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_BANK_FIT_H_
