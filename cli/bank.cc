// msa bank create|ls|rm. Which bank is said by name, not by --bank.
#include <ostream>

#include "absl/strings/str_format.h"
#include "cli/client_verbs.h"
#include "cli/json.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class BankCreateVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "bank create"; }
  std::string_view help() const override { return "Make a bank for the server's model"; }

 protected:
  bool has_bank() const override { return false; }
  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("name", &name_, "The bank's name");
    const std::vector<std::string> precisions = {"f32", "bf16", "int8", "fp8"};
    flags.AddChoice("--routing-precision", &routing_, precisions, "Of the routing keys");
    flags.AddChoice("--content-precision", &content_, precisions, "Of the keys and values");
    flags.Add("--routing-chunk-tokens", &options_.routing_chunk_tokens,
              "Tokens pooled into a routing key");
    flags.Add("--content-chunk-tokens", &options_.content_chunk_tokens,
              "Tokens pooled into a key and value");
    flags.Add("--part-tokens", &options_.part_tokens, "Longer documents are split");
    flags.Add("--parse-special-tokens", &parse_special_tokens_,
              "Parse special tokens written in documents and questions: a document can then forge "
              "structure");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    if (routing_.has_value()) {
      MSA_ASSIGN_OR_RETURN(options_.routing_dtype, ParseDType(*routing_));
    }
    if (content_.has_value()) {
      MSA_ASSIGN_OR_RETURN(options_.content_dtype, ParseDType(*content_));
    }
    if (parse_special_tokens_) options_.parse_special_tokens = true;
    MSA_ASSIGN_OR_RETURN(const rpc::BankSpec spec, service.CreateBank(NewCall(), name_, options_));
    if (json()) {
      io.out << Dump(ToJson(spec)) << "\n";
    } else {
      io.out << "made bank " << spec.name << " for " << spec.model_name << "\n";
    }
    return absl::OkStatus();
  }

 private:
  std::string name_;
  std::optional<std::string> routing_;
  std::optional<std::string> content_;
  bool parse_special_tokens_ = false;
  rpc::BankOptions options_;
};

class BankLsVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "bank ls"; }
  std::string_view help() const override { return "List the banks"; }

 protected:
  bool has_bank() const override { return false; }
  void AddVerbFlags(FlagSet&) override {}

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const std::vector<rpc::BankSpec> banks, service.ListBanks(NewCall()));
    for (const rpc::BankSpec& spec : banks) {
      if (json()) {
        io.out << Dump(ToJson(spec)) << "\n";
      } else {
        io.out << absl::StrFormat("%-24s %-32s keys %s, content %s\n", spec.name, spec.model_name,
                                  DTypeName(spec.routing_dtype), DTypeName(spec.content_dtype));
      }
    }
    return absl::OkStatus();
  }
};

class BankRmVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "bank rm"; }
  std::string_view help() const override { return "Delete a bank and all its documents"; }

 protected:
  bool has_bank() const override { return false; }
  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("name", &name_, "The bank's name");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_RETURN_IF_ERROR(service.DeleteBank(NewCall(), name_));
    if (json()) {
      io.out << Dump({{"name", name_}}) << "\n";
    } else {
      io.out << "deleted bank " << name_ << "\n";
    }
    return absl::OkStatus();
  }

 private:
  std::string name_;
};

}  // namespace

std::unique_ptr<Verb> MakeBankCreateVerb(const Connector& connect) {
  return std::make_unique<BankCreateVerb>(connect);
}
std::unique_ptr<Verb> MakeBankLsVerb(const Connector& connect) {
  return std::make_unique<BankLsVerb>(connect);
}
std::unique_ptr<Verb> MakeBankRmVerb(const Connector& connect) {
  return std::make_unique<BankRmVerb>(connect);
}

}  // namespace msa::cli
