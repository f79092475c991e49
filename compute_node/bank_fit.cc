#include "compute_node/bank_fit.h"

#include "common/limits.h"
#include "common/strings.h"
#include "rpc/compute_node.h"

namespace msa::compute_node {
namespace {

bool IsChunk(int32_t tokens) { return tokens >= 1 && tokens <= kMaxPartTokens; }

}  // namespace

absl::Status CheckBankFits(const rpc::BankSpec& bank, const Transformer& transformer) {
  if (bank.model_fingerprint != transformer.fingerprint()) {
    return rpc::AboutNode(absl::FailedPreconditionError(StrCat(
        "bank '", bank.name, "' was made by model ", bank.model_name, " (", bank.model_fingerprint,
        "), this node runs ", transformer.fingerprint(),
        ": start it with the bank's model and adapter, or add the documents to a new bank")));
  }
  const MemoryConfig& memory = transformer.config().memory;
  if (bank.router_layers != memory.router_layers ||
      bank.routing != transformer.config().Routing()) {
    return absl::InvalidArgumentError(
        StrCat("bank '", bank.name, "' has other router layers or heads than its model"));
  }
  if (!IsStored(bank.routing_dtype) || !IsStored(bank.content_dtype)) {
    return absl::InvalidArgumentError("banks are kept in f32, bf16, int8 or fp8");
  }
  if (!IsChunk(bank.routing_chunk_tokens) || !IsChunk(bank.content_chunk_tokens)) {
    return absl::InvalidArgumentError(
        StrCat("bank '", bank.name, "' pools ", bank.routing_chunk_tokens, " and ",
               bank.content_chunk_tokens, " tokens: 1 to ", kMaxPartTokens, " are allowed"));
  }
  return absl::OkStatus();
}

}  // namespace msa::compute_node
