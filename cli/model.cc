// msa model: which model a server answers with, and what a bank made now would be.
#include <ostream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/client_verbs.h"
#include "cli/json.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class ModelVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "model"; }
  std::string_view help() const override { return "Show the model a server answers with"; }

 protected:
  void AddVerbFlags(FlagSet&) override {}
  bool has_bank() const override { return false; }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo model, service.GetModel(NewCall()));
    if (json()) {
      io.out << Dump(ToJson(model)) << "\n";
      return absl::OkStatus();
    }
    const rpc::BankSpec& bank = model.default_bank;
    io.out << absl::StrFormat("%s, fingerprint %s\n", model.name, model.fingerprint)
           << absl::StrFormat("retrieval %s, %s\n", model.retrieval_mode,
                              model.has_trained_routers ? "trained routers"
                                                        : "attention's own projections as routers")
           << absl::StrFormat("routes in layers %s\n", absl::StrJoin(bank.router_layers, ", "))
           << absl::StrFormat(
                  "a bank made now: keys %s of %d tokens, content %s of %d, parts of up to %d\n",
                  DTypeName(bank.routing_dtype), bank.routing_chunk_tokens,
                  DTypeName(bank.content_dtype), bank.content_chunk_tokens, bank.part_tokens);
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Verb> MakeModelVerb(const Connector& connect) {
  return std::make_unique<ModelVerb>(connect);
}

}  // namespace msa::cli
