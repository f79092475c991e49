// msa retrieve: the documents a question routes to, without an answer.
#include <ostream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/client_verbs.h"
#include "cli/coarse.h"
#include "cli/json.h"
#include "cli/question.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class RetrieveVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "retrieve"; }
  std::string_view help() const override { return "Find the documents a question routes to"; }

 protected:
  double default_timeout_s() const override { return 600; }

  void AddVerbFlags(FlagSet& flags) override {
    request_.limit = 16;
    flags.Positional("question", &question_, "The question, or - to read it from standard input");
    flags.Add("--limit", &request_.limit, "Documents wanted");
    flags.Add("--top-k", &request_.top_k,
              "Parts a layer attends to while routing (default: the model's)");
    flags.Add("--max-rounds", &request_.max_rounds,
              "Rounds of retrieval at most (default: the model's)");
    flags.Add("--allow-partial", &request_.allow_partial,
              "Answer from the shards that are there, naming the missing ones");
    AddScanFlag(flags, &scan_);
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    request_.bank = bank();
    request_.scan = ParseScan(scan_);
    MSA_ASSIGN_OR_RETURN(request_.question, ReadQuestion(question_, io.in));
    MSA_ASSIGN_OR_RETURN(const rpc::RetrieveReply reply, service.Retrieve(NewCall(), request_));
    if (json()) {
      io.out << Dump(ToJson(reply)) << "\n";
      return absl::OkStatus();
    }
    for (const rpc::RoutedDocument& document : reply.documents) PrintRouted(document, io.out);
    PrintMissing(reply.missing_shards, io.err);
    io.err << absl::StrFormat("%d documents in %.0f ms (routing %.0f ms)\n", reply.documents.size(),
                              reply.timings.total, reply.timings.route);
    return absl::OkStatus();
  }

 private:
  std::string question_;
  std::string scan_ = "default";
  rpc::RetrieveRequest request_;
};

}  // namespace

std::unique_ptr<Verb> MakeRetrieveVerb(const Connector& connect) {
  return std::make_unique<RetrieveVerb>(connect);
}

}  // namespace msa::cli
