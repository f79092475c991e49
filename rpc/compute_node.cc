#include "rpc/compute_node.h"

#include <string_view>

#include "common/strings.h"

namespace msa::rpc {

absl::Status CheckWeights(const BankSpec& bank, DType weights) {
  if (!bank.weights_dtype || *bank.weights_dtype == weights) return absl::OkStatus();
  const std::string_view theirs = DTypeName(*bank.weights_dtype);
  return absl::FailedPreconditionError(
      StrCat("documents of bank '", bank.name, "' are encoded with weights in ", theirs,
             ", this node has them in ", DTypeName(weights), ": start it with --weights ", theirs,
             ", or add the documents to a new bank"));
}

}  // namespace msa::rpc
