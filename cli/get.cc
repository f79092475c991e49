// msa get: one document as it is stored: title, newline, text.
#include <algorithm>
#include <ostream>

#include "cli/client_verbs.h"
#include "cli/json.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class GetVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "get"; }
  std::string_view help() const override { return "Print one document"; }

 protected:
  void AddVerbFlags(FlagSet& flags) override { flags.Positional("id", &id_, "The document's id"); }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const rpc::StoredDocument document,
                         service.GetDocument(NewCall(), bank(), id_));
    if (!json()) {
      io.out << document.full_text << "\n";
      return absl::OkStatus();
    }
    Json line = ToJson(document.info);
    // What is stored begins with the title; the text is what the client sent.
    const size_t title = document.info.title.empty() ? 0 : document.info.title.size() + 1;
    line["text"] = document.full_text.substr(std::min(title, document.full_text.size()));
    io.out << Dump(line) << "\n";
    return absl::OkStatus();
  }

 private:
  std::string id_;
};

}  // namespace

std::unique_ptr<Verb> MakeGetVerb(const Connector& connect) {
  return std::make_unique<GetVerb>(connect);
}

}  // namespace msa::cli
