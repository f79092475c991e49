// What a bank or a document must be before anything of it is stored. Stateless; thread-safe. Every
// refusal says what was found and what is allowed.
#ifndef MSA_MEMORY_NODE_VALIDATION_H_
#define MSA_MEMORY_NODE_VALIDATION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "rpc/types.h"

namespace msa::memory_node {

// INVALID_ARGUMENT.
absl::Status ValidateBank(const rpc::BankSpec& spec);

// FAILED_PRECONDITION for another model or bank, DATA_LOSS for a checksum that does not fit,
// INVALID_ARGUMENT for the rest, not-finite keys and scales included. Reads every byte once.
absl::Status ValidateDocument(const rpc::BankSpec& bank, const rpc::EncodedDocument& document);

// FAILED_PRECONDITION for codes that keys of the bank cannot have; INVALID_ARGUMENT for a state
// that contradicts itself.
absl::Status ValidateCoarse(const rpc::BankSpec& bank, const rpc::CoarseState& state);

// INVALID_ARGUMENT unless queries are [rows, query_width] of the bank, finite and within limits.
absl::Status ValidateQueries(const rpc::BankSpec& bank, const std::vector<float>& queries);

// CRC32C over all that was put: a repeated call has the same, another document another.
uint32_t PutDigest(const rpc::EncodedDocument& document);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_VALIDATION_H_
