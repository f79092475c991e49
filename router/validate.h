// What the router accepts. Each function: OK, or INVALID_ARGUMENT saying what is wrong and, for a
// limit, the limit (common/limits.h).
#ifndef MSA_ROUTER_VALIDATE_H_
#define MSA_ROUTER_VALIDATE_H_

#include <string>

#include "absl/status/status.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/types.h"

namespace msa::router {

absl::Status CheckBankName(const std::string& name);
absl::Status CheckBankOptions(const rpc::BankOptions& options);
absl::Status CheckDocumentId(const std::string& id);
// Texts and titles may be empty and may hold NUL bytes; ids may not.
absl::Status CheckDocument(const rpc::NewDocument& document);
absl::Status CheckRequest(const rpc::GenerateRequest& request);
absl::Status CheckRequest(const rpc::RetrieveRequest& request);

}  // namespace msa::router

#endif  // MSA_ROUTER_VALIDATE_H_
