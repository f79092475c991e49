// msa eval: recall, exact match and F1 of a question set over a corpus.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <ostream>
#include <set>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_set.h"
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
  bool no_answer = false;  // the model said so
  double retrieve_ms = 0;
  double answer_ms = 0;
};

// Sums over questions of one kind.
struct Scores {
  int64_t questions = 0, with_gold = 0, with_answers = 0, without_answers = 0;
  int64_t refused_answerable = 0, refused_unanswerable = 0;
  std::map<int32_t, double> recall, all_gold;  // by k
  double exact = 0, f1 = 0;

  void Add(const Question& question, const Outcome& outcome, const std::vector<int32_t>& ks);
  void AddTo(Json& report, bool with_answers) const;
};

void Scores::Add(const Question& question, const Outcome& outcome, const std::vector<int32_t>& ks) {
  ++questions;
  with_gold += !question.gold.empty();
  for (int32_t k : ks) {
    const double share = RecallAt(static_cast<size_t>(k), outcome.ranked, question.gold);
    recall[k] += share;
    all_gold[k] += share == 1;
  }
  if (question.answers.empty()) {
    ++without_answers;
    refused_unanswerable += outcome.no_answer;
    return;
  }
  ++with_answers;
  refused_answerable += outcome.no_answer;
  exact += ExactMatch(outcome.answer, question.answers);
  f1 += F1(outcome.answer, question.answers);
}

// Shares of nothing are null.
void Scores::AddTo(Json& report, bool answered) const {
  const auto share = [](double sum, int64_t of) { return of == 0 ? Json() : Json(sum / of); };
  report["questions"] = questions;
  report["with_gold"] = with_gold;
  report["recall"] = report["all_gold"] = Json::object();
  for (const auto& [k, sum] : recall) {
    report["recall"][std::to_string(k)] = share(sum, with_gold);
    report["all_gold"][std::to_string(k)] = share(all_gold.at(k), with_gold);
  }
  if (!answered) return;
  report["with_answers"] = with_answers;
  report["exact_match"] = share(exact, with_answers);
  report["f1"] = share(f1, with_answers);
  report["refused"] = share(static_cast<double>(refused_answerable), with_answers);
  report["without_answers"] = without_answers;
  report["refused_without_answers"] =
      share(static_cast<double>(refused_unanswerable), without_answers);
}

std::string Percent(const Json& share) {
  return share.is_null() ? "–" : absl::StrFormat("%.1f", share.get<double>() * 100);
}

// Of questions that need several documents: how many have the first that they name among the best
// k, how many the second, and so on. Sets that name documents in the order of their hops have
// theirs so.
class Hops {
 public:
  void Add(const Question& question, const Outcome& outcome, const std::vector<int32_t>& ks) {
    std::vector<std::string> named;
    for (const std::string& gold : question.gold) {
      if (std::find(named.begin(), named.end(), gold) == named.end()) named.push_back(gold);
    }
    if (named.size() < 2) return;
    for (size_t i = 0; i < named.size(); ++i) {
      Hop& hop = hops_[i + 1];
      ++hop.questions;
      for (const int32_t k : ks) {
        hop.found[k] += RecallAt(static_cast<size_t>(k), outcome.ranked, {named[i]});
      }
    }
  }
  Json Report() const {
    Json report = Json::object();
    for (const auto& [number, hop] : hops_) {
      Json& one = report[std::to_string(number)] = {{"questions", hop.questions}};
      for (const auto& [k, sum] : hop.found) {
        one["recall"][std::to_string(k)] = sum / static_cast<double>(hop.questions);
      }
    }
    return report;
  }

 private:
  struct Hop {
    int64_t questions = 0;
    std::map<int32_t, double> found;  // by k
  };
  std::map<size_t, Hop> hops_;
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
    flags.AddRequired(
        "--questions", &questions_path_,
        "JSON lines {\"id\",\"question\",\"answers\",\"supporting_titles_or_ids\"} (also "
        ".zst); no answers: nothing in the corpus answers it");
    flags.Add("--k", &ks_, "Ranks at which recall is taken");
    flags.Add("--answers", &with_answers_,
              "Also answer each question: exact match, F1, and how many are refused, of those with "
              "answers and of those without, which nothing in the corpus answers");
    flags.Add("--no-add", &no_add_, "Use --bank as it is, add nothing");
    flags.Add("--keep-bank", &keep_bank_, "Leave the bank made for this run in place");
    flags.AddBounded("--limit", &limit_, 0, INT32_MAX,
                     "Use the first so many questions, 0 for all");
    flags.AddBounded("--concurrency", &concurrency_, 1, 4096, "Questions at once");
    flags.Add("--max-rounds", &max_rounds_, "Rounds of retrieval at most (default: the model's)");
    flags.Add("--read-together", &read_together_,
              "With --answers: read a round's texts together only, not each by itself, too");
    flags.Add("--details", &details_path_, "File to write an object a question to");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_RETURN_IF_ERROR(CheckFlags());
    MSA_ASSIGN_OR_RETURN(questions_, ReadQuestions(questions_path_, limit_));
    if (questions_.empty()) {
      return absl::InvalidArgumentError(StrCat(questions_path_, " holds no question"));
    }
    std::sort(ks_.begin(), ks_.end());
    ks_.erase(std::unique(ks_.begin(), ks_.end()), ks_.end());
    bank_ = no_add_ ? bank() : UniqueBankName("eval-");
    if (no_add_) return Measure(service, io);
    MSA_RETURN_IF_ERROR(CheckCorpus(io));
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
    if (read_together_ && !with_answers_) {
      return UsageError("--read-together says how answers are read: give --answers too");
    }
    for (int32_t k : ks_) {
      if (k < 1 || k > kMaxRankLimit) {
        return UsageError(StrCat("--k takes ranks of 1 to ", kMaxRankLimit));
      }
    }
    // Told before hours of questions rather than after; what the file holds stays until then.
    if (details_path_.empty() || std::ofstream(details_path_, std::ios::app)) {
      return absl::OkStatus();
    }
    return CannotWriteDetails();
  }

  // Told before hours of encoding rather than after. What comes by a pipe can be read only once.
  absl::Status CheckCorpus(Io& io) const {
    std::error_code error;
    if (!std::filesystem::is_regular_file(corpus_, error)) return absl::OkStatus();
    MSA_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::Open({corpus_}, io.in));
    absl::flat_hash_set<std::string> ids;
    while (const std::optional<ReadDocument> read = reader.Next()) {
      absl::Status status = read->status;
      if (status.ok() && !ids.insert(read->document.id).second) {
        status = absl::InvalidArgumentError(
            StrCat("the id '", read->document.id, "' came earlier in this file"));
      }
      if (!status.ok()) {
        return absl::Status(status.code(), StrCat(read->where, ": ", status.message(),
                                                  "; nothing was added, mend the corpus first"));
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

  // Gold that no document of the bank has for its id or title, which no answer can find.
  absl::StatusOr<std::set<std::string>> MissingGold(rpc::MemoryService& service) const {
    std::set<std::string> missing;
    for (const Question& question : questions_) {
      missing.insert(question.gold.begin(), question.gold.end());
    }
    std::string page_token;
    do {
      if (missing.empty()) break;
      MSA_ASSIGN_OR_RETURN(const rpc::DocumentPage page,
                           service.ListDocuments(NewCall(), bank_, kMaxPageSize, page_token));
      for (const rpc::DocumentInfo& info : page.documents) {
        missing.erase(info.id);
        missing.erase(info.title);
      }
      page_token = page.next_page_token;
    } while (!page_token.empty());
    return missing;
  }

  // The reason of the first, where others went on; an error when none did.
  absl::Status ReportFailures(Io& io) const {
    const auto bad = [](const Outcome& outcome) { return !outcome.status.ok(); };
    const auto first = std::find_if(outcomes_.begin(), outcomes_.end(), bad);
    if (first == outcomes_.end()) return absl::OkStatus();
    const auto failed = std::count_if(first, outcomes_.end(), bad);
    const auto index = static_cast<size_t>(first - outcomes_.begin());
    const std::string why = StrCat(
        failed, " of ", outcomes_.size(), " questions failed, and count as wrong; the first: ",
        questions_[index].id.empty() ? StrCat("number ", index + 1) : questions_[index].id, ": ",
        first->status.message());
    if (std::cmp_equal(failed, outcomes_.size())) return absl::Status(first->status.code(), why);
    io.err << why << "\n";
    return absl::OkStatus();
  }

  absl::Status Measure(rpc::MemoryService& service, Io& io) {
    MSA_ASSIGN_OR_RETURN(const std::set<std::string> missing, MissingGold(service));
    missing_gold_ = missing.size();
    if (!missing.empty()) {
      io.err << missing.size() << " gold documents are not in bank " << bank_
             << ", by id or title, "
             << "and count as not found; the first: " << *missing.begin() << "\n";
    }
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
    MSA_RETURN_IF_ERROR(ReportFailures(io));
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
    if (outcome.status.ok() && with_answers_) {
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
    request.read_together = read_together_;
    const absl::Time start = absl::Now();
    MSA_RETURN_IF_ERROR(service.Generate(NewCall(), request, [&](const rpc::GenerateEvent& event) {
      if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) {
        outcome->answer = done->answer;
        outcome->no_answer = done->no_answer;
      }
      return true;
    }));
    outcome->answer_ms = MillisecondsSince(start);
    return absl::OkStatus();
  }

  Json Report() const {
    Scores all;
    std::map<size_t, Scores> by_gold;  // by how many documents a question needs
    Hops hops;
    int64_t failed = 0;
    std::vector<double> retrieve_ms, answer_ms;
    for (size_t i = 0; i < questions_.size(); ++i) {
      const Outcome& outcome = outcomes_[i];
      failed += !outcome.status.ok();
      if (outcome.retrieve_ms > 0) retrieve_ms.push_back(outcome.retrieve_ms);
      if (outcome.answer_ms > 0) answer_ms.push_back(outcome.answer_ms);
      const std::set<std::string> gold(questions_[i].gold.begin(), questions_[i].gold.end());
      all.Add(questions_[i], outcome, ks_);
      by_gold[gold.size()].Add(questions_[i], outcome, ks_);
      hops.Add(questions_[i], outcome, ks_);
    }
    Json report = {{"failed", failed},
                   {"bank", bank_},
                   {"documents_added", add_totals_.added},
                   {"gold_missing", missing_gold_},
                   {"tokens_added", add_totals_.tokens},
                   {"retrieve_ms", LatencyJson(retrieve_ms)},
                   {"by_gold_documents", Json::object()},
                   {"by_hop", hops.Report()}};
    all.AddTo(report, with_answers_);
    if (with_answers_) report["answer_ms"] = LatencyJson(answer_ms);
    for (const auto& [count, scores] : by_gold) {
      scores.AddTo(report["by_gold_documents"][std::to_string(count)], with_answers_);
    }
    return report;
  }

  static void PrintTable(const Json& report, std::ostream& out) {
    out << absl::StrFormat("%d questions, %d with gold documents, %d failed\n",
                           report["questions"].get<int64_t>(), report["with_gold"].get<int64_t>(),
                           report["failed"].get<int64_t>());
    if (report["with_gold"] == 0) {
      out << "no question names documents (supporting_titles_or_ids): no recall\n";
    }
    PrintScores(report, out);
    out << absl::StrFormat("retrieve p50 %.0f ms, p99 %.0f ms\n",
                           report["retrieve_ms"]["p50"].get<double>(),
                           report["retrieve_ms"]["p99"].get<double>());
    if (report.contains("answer_ms")) {
      out << absl::StrFormat("answer p50 %.0f ms, p99 %.0f ms\n",
                             report["answer_ms"]["p50"].get<double>(),
                             report["answer_ms"]["p99"].get<double>());
    }
    PrintHops(report["by_hop"], out);
    const Json& by_gold = report["by_gold_documents"];
    if (by_gold.size() < 2) return;
    for (const auto& [count, scores] : by_gold.items()) {
      out << absl::StrFormat("\n%d questions with %s gold documents\n",
                             scores["questions"].get<int64_t>(), count);
      PrintScores(scores, out);
    }
  }

  static void PrintHops(const Json& hops, std::ostream& out) {
    for (const auto& [number, hop] : hops.items()) {
      out << absl::StrFormat("document %s of %d questions that name several: recall %%", number,
                             hop["questions"].get<int64_t>());
      for (const auto& [k, share] : hop["recall"].items()) {
        out << absl::StrFormat(" %s @%s", Percent(share), k);
      }
      out << "\n";
    }
  }

  static void PrintScores(const Json& scores, std::ostream& out) {
    if (scores["with_gold"] != 0) {
      out << absl::StrFormat("%6s %10s %10s\n", "k", "recall %", "all gold %");
      for (const auto& [k, share] : scores["recall"].items()) {
        out << absl::StrFormat("%6s %10s %10s\n", k, Percent(share),
                               Percent(scores["all_gold"][k]));
      }
    }
    if (!scores.contains("f1")) return;
    if (scores["with_answers"] != 0) {
      out << absl::StrFormat(
          "exact match %s %%, F1 %s %% of %d questions with answers, %s %% refused\n",
          Percent(scores["exact_match"]), Percent(scores["f1"]),
          scores["with_answers"].get<int64_t>(), Percent(scores["refused"]));
    }
    if (scores["without_answers"] != 0) {
      out << absl::StrFormat("%s %% of %d questions without answers refused\n",
                             Percent(scores["refused_without_answers"]),
                             scores["without_answers"].get<int64_t>());
    }
  }

  absl::Status CannotWriteDetails() const {
    return absl::PermissionDeniedError(StrCat("cannot write --details ", details_path_,
                                              ": check its folder and the room on its disk"));
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
                    {"no_answer", outcomes_[i].no_answer},
                    {"exact_match", ExactMatch(outcomes_[i].answer, questions_[i].answers)},
                    {"f1", F1(outcomes_[i].answer, questions_[i].answers)},
                    {"status", std::string(absl::StatusCodeToString(outcomes_[i].status.code()))},
                    {"error", std::string(outcomes_[i].status.message())}})
           << "\n";
    }
    return file.flush() ? absl::OkStatus() : CannotWriteDetails();
  }

  std::string corpus_;
  std::string questions_path_;
  std::vector<int32_t> ks_ = {1, 5, 16};
  bool with_answers_ = false;
  bool read_together_ = false;
  bool no_add_ = false;
  bool keep_bank_ = false;
  int32_t limit_ = 0;
  int32_t concurrency_ = 1;
  std::optional<int32_t> max_rounds_;
  std::string details_path_;

  std::string bank_;  // the one measured
  AddTotals add_totals_;
  size_t missing_gold_ = 0;
  std::vector<Question> questions_;
  std::vector<Outcome> outcomes_;  // one a question
};

}  // namespace

std::unique_ptr<Verb> MakeEvalVerb(const Connector& connect) {
  return std::make_unique<EvalVerb>(connect);
}

}  // namespace msa::cli
