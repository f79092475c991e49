// msa ask: an answer as it streams, with the documents routed to in each round.
#include <algorithm>
#include <ostream>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/client_verbs.h"
#include "cli/coarse.h"
#include "cli/json.h"
#include "cli/question.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

// A routing event names every part that any layer selected; a reader wants the first few.
constexpr size_t kShownDocuments = 5;

// Writes the events of one answer for a person to read.
class EventPrinter {
 public:
  explicit EventPrinter(std::ostream& out, bool colours) : out_(out), colours_(colours) {}

  void operator()(const rpc::RoutingEvent& event) {
    EndText();
    Dim(absl::StrFormat("round %d: routed to %d documents\n", event.round, event.documents.size()));
    for (size_t i = 0; i < event.documents.size() && i < kShownDocuments; ++i) {
      PrintRouted(event.documents[i], out_);
    }
    PrintMissing(event.missing_shards, out_);
  }
  void operator()(const rpc::DocumentsLoadedEvent& event) {
    EndText();
    Dim(absl::StrFormat("round %d: reads", event.round));
    for (const rpc::RoutedDocument& document : event.documents) {
      out_ << "  " << document.document_id;
    }
    out_ << "\n";
  }
  void operator()(const rpc::TextEvent& event) {
    if (event.retrieval) {
      Dim(event.text);
    } else {
      out_ << event.text;
    }
    out_ << std::flush;
    in_text_ = true;
  }
  void operator()(const rpc::DoneEvent& event) {
    EndText();
    const std::vector<int64_t>& from = event.answered_from;  // empty: an older node does not say
    const auto answered = [&](const rpc::RoutedDocument& document) {
      return from.empty() || std::find(from.begin(), from.end(), document.reference) != from.end();
    };
    std::vector<rpc::RoutedDocument> documents = event.documents;
    std::stable_partition(documents.begin(), documents.end(), answered);
    for (const rpc::RoutedDocument& document : documents) {
      // No answer is written from a text.
      PrintRead(event.no_answer ? "read" : answered(document) ? "from" : "also read", document);
    }
    PrintMissing(event.missing_shards, out_);
    const rpc::Timings& t = event.timings;
    Dim(
        absl::StrFormat("%.0f ms: first token %.0f, prefill %.0f, routing %.0f, fetch %.0f, decode "
                        "%.0f · %d + %d tokens, %d %s, %d parts of memory · %s\n",
                        t.total, t.first_token, t.prefill, t.route, t.fetch, t.decode,
                        event.usage.prompt_tokens, event.usage.generated_tokens, event.usage.rounds,
                        event.usage.rounds == 1 ? "round" : "rounds", event.usage.memory_parts,
                        event.finish_reason));
  }

 private:
  void PrintRead(std::string_view how, const rpc::RoutedDocument& document) {
    out_ << "  " << how << " " << document.document_id;
    if (!document.title.empty()) out_ << " · " << document.title;
    out_ << absl::StrFormat(" [part %d, bytes %d–%d]\n", document.part_index, document.span.begin,
                            document.span.end);
  }

  void Dim(const std::string& text) {
    out_ << (colours_ ? "\x1b[2m" : "") << text << (colours_ ? "\x1b[0m" : "");
  }
  void EndText() {
    if (in_text_) out_ << "\n";
    in_text_ = false;
  }

  std::ostream& out_;
  const bool colours_;
  bool in_text_ = false;
};

class AskVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "ask"; }
  std::string_view help() const override { return "Ask a question of a bank's documents"; }

 protected:
  double default_timeout_s() const override { return 600; }

  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("question", &question_, "The question, or - to read it from standard input");
    flags.AddChoice("--mode", &request_.mode, {"generative", "router"},
                    "How documents are chosen (default: the model's)");
    flags.Add("--top-k", &request_.top_k, "Parts a layer attends to (default: the model's)");
    flags.Add("--reader-documents", &request_.reader_documents,
              "Router mode: texts read a round (default: the model's)");
    flags.Add("--read-together", &request_.read_together,
              "Router mode: read a round's texts together only, not each by itself, too");
    flags.Add("--max-rounds", &request_.max_rounds,
              "Rounds of retrieval at most (default: the model's)");
    flags.Add("--max-new-tokens", &request_.max_new_tokens,
              "Tokens of the answer at most (default: 256)");
    flags.Add("--temperature", &temperature_,
              "0 takes the likeliest token; higher draws at random");
    flags.Add("--seed", &request_.seed, "Of the draws");
    flags.Add("--no-memory", &no_memory_, "Ask the model alone, without documents");
    flags.Add("--allow-partial", &request_.allow_partial,
              "Answer from the shards that are there, naming the missing ones");
    AddScanFlag(flags, &scan_);
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    request_.bank = bank();
    request_.scan = ParseScan(scan_);
    request_.use_memory = !no_memory_;
    request_.temperature = static_cast<float>(temperature_);
    MSA_ASSIGN_OR_RETURN(request_.question, ReadQuestion(question_, io.in));
    if (json()) return AskJson(service, io);
    EventPrinter printer(io.out, io.out_is_terminal);
    return service.Generate(NewCall(), request_, [&](const rpc::GenerateEvent& event) {
      std::visit(printer, event);
      return io.out.good();
    });
  }

 private:
  absl::Status AskJson(rpc::MemoryService& service, Io& io) {
    const absl::Status status =
        service.Generate(NewCall(), request_, [&](const rpc::GenerateEvent& event) {
          io.out << Dump(ToJson(event)) << "\n" << std::flush;
          return io.out.good();
        });
    // The stream of events says how it ended, whoever reads only that.
    if (!status.ok()) {
      io.out << Dump({{"event", "error"}, {"error", ToJson(status)}}) << "\n" << std::flush;
    }
    return status;
  }

  std::string question_;
  std::string scan_ = "default";
  rpc::GenerateRequest request_;
  double temperature_ = 0;
  bool no_memory_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeAskVerb(const Connector& connect) {
  return std::make_unique<AskVerb>(connect);
}

}  // namespace msa::cli
