// msa eval: recall, exact match and F1 of a question set over a corpus.
#include <algorithm>
#include <fstream>
#include <map>
#include <ostream>
#include <variant>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "cli/client_verbs.h"
#include "cli/document_adder.h"
#include "cli/exit_code.h"
#include "cli/json.h"
#include "cli/metrics.h"
#include "cli/progress.h"
#include "cli/questions.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

struct Outcome {
  absl::Status status;  // of this question; a failed one scores 0
  std::vector<NamedDocument> ranked;
  std::string answer;
  double retrieve_ms = 0;
  double answer_ms = 0;
};

// These end the whole run: no other question would fare better.
bool IsFatal(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status);
}

double MillisecondsSince(absl::Time start) {
  return absl::ToDoubleMilliseconds(absl::Now() - start);
}

class EvalVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "eval"; }
  std::string_view help() const override {
    return "Measure retrieval and answers on a question set";
  }

 protected:
  double default_timeout_s() const override { return 7 * 24 * 3600; }

  void AddVerbFlags(FlagSet& flags) override {
    flags.Add("--corpus", &corpus_, "Documents to add first, JSON lines (also .zst)");
    flags.AddRequired("--questions", &questions_path_,
                      "JSON lines {\"id\",\"question\",\"answers\",\"supporting_titles_or_ids\"}");
    flags.Add("--k", &ks_, "Ranks at which recall is taken");
    flags.Add("--answers", &with_answers_, "Also answer each question: exact match and F1");
    flags.Add("--no-add", &no_add_, "Use --bank as it is, add nothing");
    flags.Add("--keep-bank", &keep_bank_, "Leave the bank made for this run in place");
    flags.Add("--limit", &limit_, "Use the first so many questions, 0 for all");
    flags.Add("--concurrency", &concurrency_, "Questions at once");
    flags.Add("--max-rounds", &max_rounds_, "Rounds of retrieval at most (default: the model's)");
    flags.Add("--details", &details_path_, "File to write an object a question to");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_RETURN_IF_ERROR(CheckFlags());
    MSA_ASSIGN_OR_RETURN(questions_, ReadQuestions(questions_path_, limit_));
    if (questions_.empty()) {
      return absl::InvalidArgumentError(StrCat(questions_path_, " holds no question"));
    }
    bank_ = no_add_ ? bank() : UniqueBankName("eval-");
    if (no_add_) return Measure(service, io);
    MSA_ASSIGN_OR_RETURN(const rpc::BankSpec made,
                         service.CreateBank(NewCall(), bank_, rpc::BankOptions()));
    absl::Status status = AddCorpus(service, io);
    if (status.ok()) status = Measure(service, io);
    if (!keep_bank_) status.Update(service.DeleteBank(NewCall(), bank_));
    return status;
  }

 private:
  absl::Status CheckFlags() const {
    if (no_add_ == !corpus_.empty()) {
      return UsageError("give either --corpus F, or --no-add with the --bank to measure");
    }
    for (int32_t k : ks_) {
      if (k < 1 || k > kMaxRankLimit) {
        return UsageError(StrCat("--k takes ranks of 1 to ", kMaxRankLimit));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddCorpus(rpc::MemoryService& service, Io& io) {
    MSA_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::Open({corpus_}, io.in));
    DocumentAdder adder(reader, io, /*json=*/false);
    const absl::Status status = adder.Run(service, NewCall(), bank_);
    io.err << "added " << adder.Summary() << " to bank " << bank_ << "\n";
    add_totals_ = adder.totals();
    return status;
  }

  absl::Status Measure(rpc::MemoryService& service, Io& io) {
    outcomes_.resize(questions_.size());
    const absl::Time start = absl::Now();
    absl::Mutex mu;
    Progress progress(io.err, io.err_is_terminal);
    uint64_t asked = 0;
    MSA_RETURN_IF_ERROR(ForEachConcurrently(questions_.size(), concurrency_, [&](size_t i) {
      const absl::Status status = AskOne(service, i);
      absl::MutexLock lock(&mu);
      progress.Update(++asked, questions_.size(), StrCat(asked, " questions"));
      return status;
    }));
    progress.Clear();
    Json report = Report();
    report["seconds"] = absl::ToDoubleSeconds(absl::Now() - start);
    if (json()) {
      io.out << Dump(report) << "\n";
    } else {
      PrintTable(report, io.out);
    }
    return WriteDetails();
  }

  absl::Status AskOne(rpc::MemoryService& service, size_t i) {
    Outcome& outcome = outcomes_[i];
    outcome.status = Retrieve(service, questions_[i], &outcome);
    if (outcome.status.ok() && with_answers_ && !questions_[i].answers.empty()) {
      outcome.status = Answer(service, questions_[i], &outcome);
    }
    if (!IsFatal(outcome.status)) return absl::OkStatus();
    return absl::Status(outcome.status.code(),
                        StrCat("question ", questions_[i].id, ": ", outcome.status.message()));
  }

  absl::Status Retrieve(rpc::MemoryService& service, const Question& question, Outcome* outcome) {
    rpc::RetrieveRequest request;
    request.bank = bank_;
    request.question = question.text;
    request.limit = *std::max_element(ks_.begin(), ks_.end());
    request.max_rounds = max_rounds_;
    const absl::Time start = absl::Now();
    MSA_ASSIGN_OR_RETURN(const rpc::RetrieveReply reply, service.Retrieve(NewCall(), request));
    outcome->retrieve_ms = MillisecondsSince(start);
    for (const rpc::RoutedDocument& document : reply.documents) {
      outcome->ranked.push_back({document.document_id, document.title});
    }
    return absl::OkStatus();
  }

  absl::Status Answer(rpc::MemoryService& service, const Question& question, Outcome* outcome) {
    rpc::GenerateRequest request;
    request.bank = bank_;
    request.question = question.text;
    request.max_rounds = max_rounds_;
    const absl::Time start = absl::Now();
    MSA_RETURN_IF_ERROR(service.Generate(NewCall(), request, [&](const rpc::GenerateEvent& event) {
      if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) outcome->answer = done->answer;
      return true;
    }));
    outcome->answer_ms = MillisecondsSince(start);
    return absl::OkStatus();
  }

  Json Report() const {
    int64_t with_gold = 0, with_answers = 0, failed = 0;
    std::map<int32_t, double> recall, all_gold;
    double exact = 0, f1 = 0;
    std::vector<double> retrieve_ms, answer_ms;
    for (size_t i = 0; i < questions_.size(); ++i) {
      const Question& question = questions_[i];
      const Outcome& outcome = outcomes_[i];
      failed += !outcome.status.ok();
      if (outcome.retrieve_ms > 0) retrieve_ms.push_back(outcome.retrieve_ms);
      if (outcome.answer_ms > 0) answer_ms.push_back(outcome.answer_ms);
      with_gold += !question.gold.empty();
      for (int32_t k : ks_) {
        const double share = RecallAt(static_cast<size_t>(k), outcome.ranked, question.gold);
        recall[k] += share;
        all_gold[k] += share == 1;
      }
      if (question.answers.empty()) continue;
      ++with_answers;
      exact += ExactMatch(outcome.answer, question.answers);
      f1 += F1(outcome.answer, question.answers);
    }
    Json report = {{"questions", questions_.size()},
                   {"with_gold", with_gold},
                   {"failed", failed},
                   {"bank", bank_},
                   {"documents_added", add_totals_.added},
                   {"tokens_added", add_totals_.tokens},
                   {"recall", Json::object()},
                   {"all_gold", Json::object()},
                   {"retrieve_ms", LatencyJson(retrieve_ms)}};
    for (int32_t k : ks_) {
      report["recall"][std::to_string(k)] = recall[k] / std::max<double>(1, with_gold);
      report["all_gold"][std::to_string(k)] = all_gold[k] / std::max<double>(1, with_gold);
    }
    if (!with_answers_) return report;
    report["with_answers"] = with_answers;
    report["exact_match"] = exact / std::max<double>(1, with_answers);
    report["f1"] = f1 / std::max<double>(1, with_answers);
    report["answer_ms"] = LatencyJson(answer_ms);
    return report;
  }

  static void PrintTable(const Json& report, std::ostream& out) {
    out << absl::StrFormat("%d questions, %d with gold documents, %d failed\n",
                           report["questions"].get<int64_t>(), report["with_gold"].get<int64_t>(),
                           report["failed"].get<int64_t>());
    out << absl::StrFormat("%6s %10s %10s\n", "k", "recall %", "all gold %");
    for (const auto& [k, share] : report["recall"].items()) {
      out << absl::StrFormat("%6s %10.1f %10.1f\n", k, share.get<double>() * 100,
                             report["all_gold"][k].get<double>() * 100);
    }
    out << absl::StrFormat("retrieve p50 %.0f ms, p99 %.0f ms\n",
                           report["retrieve_ms"]["p50"].get<double>(),
                           report["retrieve_ms"]["p99"].get<double>());
    if (!report.contains("f1")) return;
    out << absl::StrFormat(
        "exact match %.1f %%, F1 %.1f %% of %d questions with answers; p50 %.0f ms, p99 %.0f ms\n",
        report["exact_match"].get<double>() * 100, report["f1"].get<double>() * 100,
        report["with_answers"].get<int64_t>(), report["answer_ms"]["p50"].get<double>(),
        report["answer_ms"]["p99"].get<double>());
  }

  absl::Status WriteDetails() const {
    if (details_path_.empty()) return absl::OkStatus();
    std::ofstream file(details_path_);
    for (size_t i = 0; i < questions_.size(); ++i) {
      Json ranked = Json::array();
      for (const NamedDocument& document : outcomes_[i].ranked) ranked.push_back(document.id);
      file << Dump({{"id", questions_[i].id},
                    {"question", questions_[i].text},
                    {"gold", questions_[i].gold},
                    {"ranked", std::move(ranked)},
                    {"answers", questions_[i].answers},
                    {"answer", outcomes_[i].answer},
                    {"exact_match", ExactMatch(outcomes_[i].answer, questions_[i].answers)},
                    {"f1", F1(outcomes_[i].answer, questions_[i].answers)},
                    {"status", std::string(absl::StatusCodeToString(outcomes_[i].status.code()))}})
           << "\n";
    }
    if (!file.flush()) {
      return absl::PermissionDeniedError(StrCat("cannot write ", details_path_));
    }
    return absl::OkStatus();
  }

  std::string corpus_;
  std::string questions_path_;
  std::vector<int32_t> ks_ = {1, 5, 16};
  bool with_answers_ = false;
  bool no_add_ = false;
  bool keep_bank_ = false;
  int32_t limit_ = 0;
  int32_t concurrency_ = 1;
  std::optional<int32_t> max_rounds_;
  std::string details_path_;

  std::string bank_;  // the one measured
  AddTotals add_totals_;
  std::vector<Question> questions_;
  std::vector<Outcome> outcomes_;  // one a question
};

}  // namespace

std::unique_ptr<Verb> MakeEvalVerb(const Connector& connect) {
  return std::make_unique<EvalVerb>(connect);
}

}  // namespace msa::cli
