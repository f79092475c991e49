#include "rpc/compute_node.h"

#include <string_view>

#include "absl/strings/cord.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

constexpr char kAboutNode[] = "type.googleapis.com/msa.v1.AboutNode";

}  // namespace

absl::Status AboutNode(absl::Status refusal) {
  refusal.SetPayload(kAboutNode, absl::Cord());
  return refusal;
}

bool IsAboutNode(const absl::Status& status) { return status.GetPayload(kAboutNode).has_value(); }

absl::Status CheckWeights(const BankSpec& bank, DType weights) {
  if (!bank.weights_dtype || *bank.weights_dtype == weights) return absl::OkStatus();
  const std::string_view theirs = DTypeName(*bank.weights_dtype);
  return AboutNode(absl::FailedPreconditionError(
      StrCat("documents of bank '", bank.name, "' are encoded with weights in ", theirs,
             ", this node has them in ", DTypeName(weights), ": start it with --weights ", theirs,
             ", or add the documents to a new bank")));
}

}  // namespace msa::rpc
