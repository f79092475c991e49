// msa bench: a load generator against a running server, or against one made of random numbers.
// Bounded in requests; latencies as percentiles.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>
#include <ostream>
#include <utility>
#include <variant>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "cli/bench_verb.h"
#include "cli/coarse.h"
#include "cli/document_reader.h"
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

struct Sample {
  double total_ms = 0;
  double first_token_ms = 0;  // `ask` only
  int64_t tokens = 0;         // written (ask) or encoded (add)
  rpc::Timings timings;       // the server's own account of it (ask, retrieve)
  int32_t prompt_tokens = 0;
  std::vector<rpc::ScanComparison> comparisons;  // `retrieve` only
};

// Where the time to the first token went, by the server's clock; the medians of the requests.
struct Stage {
  const char* name;
  double rpc::Timings::*time;
};
constexpr Stage kStages[] = {
    {"queue", &rpc::Timings::queue},     {"tokenize", &rpc::Timings::tokenize},
    {"route", &rpc::Timings::route},     {"fetch", &rpc::Timings::fetch},
    {"prefill", &rpc::Timings::prefill}, {"first_decode", &rpc::Timings::first_decode},
};

// "250000", "16K", "100M", "1B".
absl::StatusOr<int64_t> ParseCount(std::string_view text) {
  int64_t factor = 1;
  const std::pair<char, int64_t> suffixes[] = {{'K', 1000}, {'M', 1000000}, {'B', 1000000000}};
  for (const auto& [suffix, times] : suffixes) {
    if (!text.empty() && text.back() == suffix) factor = times;
  }
  if (factor > 1) text.remove_suffix(1);
  int64_t count = 0;
  if (!absl::SimpleAtoi(ToAbsl(text), &count) || count < 1 ||
      count > kMaxSyntheticTokens / factor) {
    return UsageError("--tokens is a number of 1 to 500B, such as 250000, 10M or 1B");
  }
  return count * factor;
}

constexpr char kTokens[] = "1M";  // --tokens

class BenchVerb : public ClientVerb {
 public:
  BenchVerb(const Connector& connect, SyntheticServer synthetic)
      : ClientVerb([this, connect](const ServerAt& server) { return Connect(connect, server); }),
        synthetic_(std::move(synthetic)) {}
  std::string_view name() const override { return "bench"; }
  std::string_view help() const override { return "Put load on a running server and time it"; }

 protected:
  double default_timeout_s() const override { return 600; }

  void AddVerbFlags(FlagSet& flags) override {
    flags.AddChoice("--operation", &operation_, {"ask", "retrieve", "add"}, "What to time");
    flags.Add("--questions", &questions_path_, "Question set, JSON lines (ask, retrieve)");
    flags.Add("--corpus", &corpus_, "Documents, JSON lines (add); they go to a bank made for it");
    flags.AddBounded("--requests", &requests_, 1, INT32_MAX, "Requests in all");
    flags.AddBounded("--concurrency", &concurrency_, 1, 4096, "Requests at once");
    flags.Add("--max-new-tokens", &max_new_tokens_, "Tokens of an answer at most (ask)");
    flags.Add("--max-rounds", &max_rounds_, "Rounds of retrieval at most (ask, retrieve)");
    flags.Add("--read-together", &read_together_,
              "Read a round's texts together only, not each by itself, too (ask)");
    flags.Add("--no-memory", &no_memory_, "Ask the model alone, without documents (ask)");
    AddScanFlag(flags, &scan_);
    flags.Add("--compare-candidates", &compare_candidates_,
              "Compare coarse scans of so many candidates with exact ones (retrieve)");
    if (synthetic_ == nullptr) return;
    flags.Add("--synthetic-model", &made_.model,
              "Measure the service in this process, with random weights of these shapes: msa-4b, "
              "msa-tiny");
    flags.Add("--tokens", &tokens_, "Size of its memory: 250000, 10M, 1B, up to 500B");
    flags.AddChoice("--keys", &made_.keys, {"bf16", "int8", "fp8", "f32"},
                    "Precision of its routing keys");
    flags.AddChoice("--content", &made_.content, {"bf16", "int8", "fp8", "f32"},
                    "Precision of its content");
    flags.AddChoice("--weights", &made_.weights, {"bf16", "int8", "f32"},
                    "Precision of its weights");
    flags.AddChoice("--backend", &made_.backend, {"cpu", "cuda", "reference"},
                    "What it computes with");
    flags.AddBounded("--codes", &codes_, 0, kMaxCandidates,
                     "Keep codes of its keys, for coarse scans of so many candidates");
    made_.gpus.AddFlags(flags);
    flags.Add("--tokenizer", &made_.tokenizer,
              "Its tokenizer.json (default: that of models/smollm2-135m-instruct)");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    bank_ = bank();
    if (operation_ == "add") return BenchAdd(service, io);
    MSA_RETURN_IF_ERROR(TakeQuestions());
    if (questions_.empty()) {
      return absl::InvalidArgumentError(StrCat(questions_path_, " holds no question"));
    }
    if (codes_ > 0) {
      const rpc::CoarseState state{.codes = true, .candidates = codes_};
      MSA_RETURN_IF_ERROR(service.SetCoarse(NewCall(), bank_, state).status());
    }
    return Measure(service, io, [&](size_t i, Sample* sample) {
      const std::string& question = questions_[i % questions_.size()].text;
      return operation_ == "ask" ? Ask(service, question, sample)
                                 : Retrieve(service, question, sample);
    });
  }

 private:
  using Operation = std::function<absl::Status(size_t, Sample*)>;

  absl::StatusOr<Connection> Connect(const Connector& connect, const ServerAt& server) {
    MSA_RETURN_IF_ERROR(made_.gpus.CheckFor(made_.backend));
    if (made_.model.empty()) {
      MSA_RETURN_IF_ERROR(CheckNoneOfItsOwn());
      return connect(server);
    }
    MSA_ASSIGN_OR_RETURN(made_.tokens, ParseCount(tokens_));
    made_.max_sessions = concurrency_;
    auto connection = synthetic_(made_);
    if (connection.ok()) about_ = connection->about;
    return connection;
  }

  // A usage error when something was given that only a server of its own making would look at. What
  // the environment gives may be meant for `msa serve`.
  absl::Status CheckNoneOfItsOwn() const {
    const SyntheticOptions unset;
    for (const auto& [given, flag] : {std::pair(made_.backend != unset.backend, "--backend"),
                                      {made_.gpus.gpus.has_value(), "--gpus"},
                                      {made_.gpus.gpu_memory_mb > 0, "--gpu-memory"},
                                      {made_.gpus.host_memory_mb > 0, "--host-memory"},
                                      {tokens_ != kTokens, "--tokens"},
                                      {made_.keys != unset.keys, "--keys"},
                                      {made_.content != unset.content, "--content"},
                                      {made_.weights != unset.weights, "--weights"},
                                      {codes_ > 0, "--codes"},
                                      {!made_.tokenizer.empty(), "--tokenizer"}}) {
      if (!given || std::getenv(EnvironmentTwin(flag).c_str()) != nullptr) continue;
      return UsageError(
          StrCat(flag, " is for a server that a bench makes itself, and a running one ",
                 "has its own: give --synthetic-model msa-4b, or leave ", flag, " away"));
    }
    return absl::OkStatus();
  }

  absl::Status TakeQuestions() {
    if (!questions_path_.empty()) {
      MSA_ASSIGN_OR_RETURN(questions_, ReadQuestions(questions_path_, requests_));
    } else if (made_.model.empty()) {
      return UsageError("--operation ask and retrieve need --questions");
    } else {
      for (int32_t i = 0; i < requests_; ++i) {
        questions_.emplace_back().text =
            StrCat("Which of the documents that were added last year tells most about subject ", i,
                   " and what does it say of the place where it was found?");
      }
    }
    return absl::OkStatus();
  }

  absl::Status BenchAdd(rpc::MemoryService& service, Io& io) {
    if (corpus_.empty()) return UsageError("--operation add needs --corpus");
    MSA_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::Open({corpus_}, io.in));
    std::vector<rpc::NewDocument> documents;
    while (std::cmp_less(documents.size(), requests_)) {
      std::optional<ReadDocument> read = reader.Next();
      if (!read.has_value()) break;
      if (!read->status.ok()) {
        return absl::Status(read->status.code(), StrCat(read->where, ": ", read->status.message()));
      }
      documents.push_back(std::move(read->document));
    }
    if (documents.empty()) {
      return absl::InvalidArgumentError(StrCat(corpus_, " holds no document"));
    }
    requests_ = static_cast<int32_t>(documents.size());
    bank_ = UniqueBankName("bench-");
    MSA_ASSIGN_OR_RETURN(const rpc::BankSpec made,
                         service.CreateBank(NewCall(), bank_, rpc::BankOptions()));
    absl::Status status = Measure(
        service, io, [&](size_t i, Sample* sample) { return Add(service, documents[i], sample); });
    status.Update(service.DeleteBank(NewCall(), bank_));
    return status;
  }

  absl::Status Ask(rpc::MemoryService& service, const std::string& question, Sample* sample) {
    rpc::GenerateRequest request;
    request.bank = bank_;
    request.question = question;
    request.max_new_tokens = max_new_tokens_;
    request.max_rounds = max_rounds_;
    request.read_together = read_together_;
    request.use_memory = !no_memory_;
    request.scan = ParseScan(scan_);
    const absl::Time start = absl::Now();
    return service.Generate(NewCall(), request, [&](const rpc::GenerateEvent& event) {
      if (std::holds_alternative<rpc::TextEvent>(event) && sample->first_token_ms == 0) {
        sample->first_token_ms = absl::ToDoubleMilliseconds(absl::Now() - start);
      } else if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) {
        sample->tokens = done->usage.generated_tokens;
        sample->prompt_tokens = done->usage.prompt_tokens;
        sample->timings = done->timings;
      }
      return true;
    });
  }

  absl::Status Retrieve(rpc::MemoryService& service, const std::string& question, Sample* sample) {
    rpc::RetrieveRequest request;
    request.bank = bank_;
    request.question = question;
    request.limit = 16;
    request.max_rounds = max_rounds_;
    request.scan = ParseScan(scan_);
    request.compare_candidates = compare_candidates_;
    MSA_ASSIGN_OR_RETURN(rpc::RetrieveReply reply, service.Retrieve(NewCall(), request));
    sample->timings = reply.timings;
    sample->comparisons = std::move(reply.comparisons);
    return absl::OkStatus();
  }

  absl::Status Add(rpc::MemoryService& service, const rpc::NewDocument& document, Sample* sample) {
    bool sent = false;
    absl::Status refused;
    const absl::Status stream = service.AddDocuments(
        NewCall(), bank_,
        [&]() -> std::optional<rpc::NewDocument> {
          if (std::exchange(sent, true)) return std::nullopt;
          return document;
        },
        [&](const rpc::AddResult& result) {
          refused = result.status;
          sample->tokens = result.put.num_tokens;
          return true;
        });
    return stream.ok() ? refused : stream;
  }

  absl::Status Measure(rpc::MemoryService& service, Io& io, const Operation& operation) {
    std::vector<Sample> samples(static_cast<size_t>(requests_));
    absl::Mutex mu;
    Progress progress(io.err, io.err_is_terminal);
    uint64_t done = 0;
    const absl::Time start = absl::Now();
    MSA_RETURN_IF_ERROR(ForEachConcurrently(samples.size(), concurrency_, [&](size_t i) {
      const absl::Time begin = absl::Now();
      MSA_RETURN_IF_ERROR(operation(i, &samples[i]));
      samples[i].total_ms = absl::ToDoubleMilliseconds(absl::Now() - begin);
      absl::MutexLock lock(&mu);
      progress.Update(++done, samples.size(), StrCat(done, " requests"));
      return absl::OkStatus();
    }));
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    progress.Clear();
    Json report = Report(samples, seconds);
    if (operation_ != "add") AddSelections(service, report);
    Print(report, io.out);
    return absl::OkStatus();
  }

  // How often rounded scores told the best parts, since the server's start (ShardStats).
  void AddSelections(rpc::MemoryService& service, Json& report) const {
    const auto stats = service.Stats(NewCall(), bank_);
    if (!stats.ok()) return;
    int64_t rounded = 0, rescanned = 0, coarse = 0;
    for (const rpc::ShardStatsEntry& shard : stats->shards) {
      rounded += shard.stats.rounded_selections;
      rescanned += shard.stats.rescanned_selections;
      coarse += shard.stats.coarse_selections;
    }
    if (rounded + rescanned + coarse == 0) return;
    report["selections"] = {{"rounded", rounded}, {"rescanned", rescanned}, {"coarse", coarse}};
  }

  Json Report(const std::vector<Sample>& samples, double seconds) const {
    std::vector<double> total_ms, first_token_ms;
    int64_t tokens = 0;
    for (const Sample& sample : samples) {
      total_ms.push_back(sample.total_ms);
      if (sample.first_token_ms > 0) first_token_ms.push_back(sample.first_token_ms);
      tokens += sample.tokens;
    }
    Json report = {{"operation", operation_},
                   {"requests", samples.size()},
                   {"concurrency", concurrency_},
                   {"seconds", seconds},
                   {"requests_per_s", static_cast<double>(samples.size()) / seconds},
                   {"latency_ms", LatencyJson(total_ms)}};
    if (!about_.empty()) report["memory"] = about_;
    AddCurve(samples, report);
    if (tokens > 0) report["tokens_per_s"] = static_cast<double>(tokens) / seconds;
    if (!first_token_ms.empty()) {
      report["first_token_ms"] = LatencyJson(first_token_ms);
      report["first_token_stages_ms"] = Stages(samples);
      int64_t prompt_tokens = 0;
      for (const Sample& sample : samples) prompt_tokens += sample.prompt_tokens;
      report["mean_prompt_tokens"] = prompt_tokens / static_cast<int64_t>(samples.size());
    }
    return report;
  }

  // What coarse scans of each number of candidates selected and took, beside exact ones.
  static void AddCurve(const std::vector<Sample>& samples, Json& report) {
    std::vector<rpc::ScanComparison> curve;
    std::vector<double> route_ms;
    for (const Sample& sample : samples) {
      rpc::AddComparisons(sample.comparisons, &curve);
      route_ms.push_back(sample.timings.route);
    }
    if (report["operation"] == "retrieve") report["route_ms"] = LatencyJson(route_ms);
    for (const rpc::ScanComparison& at : curve) report["comparisons"].push_back(ToJson(at));
  }

  // Medians; "other" is the rest of what the client waited: events, texts of citations, the wire.
  static Json Stages(const std::vector<Sample>& samples) {
    const auto median = [&samples](const std::function<double(const Sample&)>& of) {
      std::vector<double> values;
      for (const Sample& sample : samples) {
        if (sample.first_token_ms > 0) values.push_back(of(sample));
      }
      return Percentile(values, 0.5);
    };
    Json stages;
    for (const Stage& stage : kStages) {
      stages[stage.name] = median([&](const Sample& s) { return s.timings.*stage.time; });
    }
    stages["other"] = median([](const Sample& s) {
      double other = s.first_token_ms;
      for (const Stage& stage : kStages) other -= s.timings.*stage.time;
      return other;
    });
    return stages;
  }

  void Print(const Json& report, std::ostream& out) const {
    if (json()) {
      out << Dump(report) << "\n";
      return;
    }
    if (!about_.empty()) out << about_ << "\n";
    const Json& latency = report["latency_ms"];
    out << absl::StrFormat(
        "%s: %d requests, %d at once, %.2f/s; p50 %.1f ms, p90 %.1f ms, p99 %.1f "
        "ms, max %.1f ms\n",
        operation_, report["requests"].get<int64_t>(), concurrency_,
        report["requests_per_s"].get<double>(), latency["p50"].get<double>(),
        latency["p90"].get<double>(), latency["p99"].get<double>(), latency["max"].get<double>());
    if (report.contains("first_token_ms")) {
      out << absl::StrFormat("first token: p50 %.1f ms, p99 %.1f ms\n",
                             report["first_token_ms"]["p50"].get<double>(),
                             report["first_token_ms"]["p99"].get<double>());
    }
    if (report.contains("tokens_per_s")) {
      out << absl::StrFormat("%.1f tokens/s\n", report["tokens_per_s"].get<double>());
    }
  }

  const SyntheticServer synthetic_;
  SyntheticOptions made_;
  std::string about_;
  std::string tokens_ = kTokens;
  std::string operation_ = "ask";
  std::string questions_path_;
  std::string corpus_;
  int32_t requests_ = 100;
  int32_t concurrency_ = 1;
  int32_t max_new_tokens_ = 64;
  std::optional<int32_t> max_rounds_;
  bool read_together_ = false;
  bool no_memory_ = false;
  std::string scan_ = "default";
  std::vector<int32_t> compare_candidates_;
  int32_t codes_ = 0;  // candidates; 0: none are kept
  std::string bank_;
  std::vector<Question> questions_;
};

}  // namespace

std::unique_ptr<Verb> MakeBenchVerb(const Connector& connect, SyntheticServer synthetic) {
  return std::make_unique<BenchVerb>(connect, std::move(synthetic));
}

}  // namespace msa::cli
