// msa add: documents from JSON lines, text files, folders or standard input.
#include <ostream>

#include "cli/client_verbs.h"
#include "cli/document_adder.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class AddVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "add"; }
  std::string_view help() const override {
    return "Add documents, or replace those of the same id";
  }

 protected:
  // A long corpus takes hours on a laptop.
  double default_timeout_s() const override { return 7 * 24 * 3600; }

  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("paths", &paths_,
                     "JSON lines {\"id\",\"title\",\"text\",\"metadata\"} (.jsonl, .ndjson, .json, "
                     ".jsonl.zst, .json.zst), .txt "
                     "and .md files (id = path), folders (ids = relative paths), - for JSON lines "
                     "on standard input");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::Open(paths_, io.in));
    if (reader.skipped_files() > 0) {
      const bool one = reader.skipped_files() == 1;
      io.err << "left out " << reader.skipped_files()
             << (one ? " file or link that is" : " files or links that are")
             << " no .jsonl, .txt or .md file\n";
    }
    DocumentAdder adder(reader, io, json());
    const absl::Status status = adder.Run(service, NewCall(), bank());
    const bool nothing_tried = adder.totals().added + adder.totals().failed == 0;
    if (!json() && (status.ok() || !nothing_tried)) io.err << "added " << adder.Summary() << "\n";
    return status;
  }

 private:
  std::vector<std::string> paths_;
};

}  // namespace

std::unique_ptr<Verb> MakeAddVerb(const Connector& connect) {
  return std::make_unique<AddVerb>(connect);
}

}  // namespace msa::cli
