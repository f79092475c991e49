// msa bank calibrate: whether a bank's coarse scans select what full scans do, measured on
// questions; and whether requests use them.
#include <algorithm>
#include <ostream>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "cli/client_verbs.h"
#include "cli/coarse.h"
#include "cli/exit_code.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/questions.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

// The one most often right; of equals the cheapest. REQUIRES: not empty.
const rpc::ScanComparison& Best(const std::vector<rpc::ScanComparison>& curve) {
  return *std::min_element(curve.begin(), curve.end(), [](const auto& a, const auto& b) {
    return a.same != b.same ? a.same > b.same : a.candidates < b.candidates;
  });
}

double Mean(double sum, int64_t count) { return count == 0 ? 0 : sum / static_cast<double>(count); }

class BankCalibrateVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "bank calibrate"; }
  std::string_view help() const override {
    return "Measure coarse scans of a bank on questions, and use them where they change nothing";
  }

 protected:
  bool has_bank() const override { return false; }
  double default_timeout_s() const override { return 600; }  // of a question

  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("name", &name_, "The bank's name");
    flags.Add("--questions", &questions_path_, "Question set, JSON lines {\"id\",\"question\"}");
    flags.Add("--candidates", &candidates_,
              "Numbers of parts scored exactly after a coarse scan that are tried");
    flags.Add("--top-k", &top_k_, "Parts a layer whose selection must stay the same");
    flags.AddBounded("--limit", &limit_, 0, INT32_MAX,
                     "Use the first so many questions, 0 for all");
    flags.AddBounded("--concurrency", &concurrency_, 1, 4096, "Questions at once");
    flags.Add("--codes", &codes_,
              "Measure nothing: keep codes for requests that ask for a coarse scan");
    flags.Add("--off", &off_, "Measure nothing: scan in full from now on and give the codes up");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    if (off_ + codes_ + !questions_path_.empty() != 1) {
      return UsageError("give one of --questions F, --codes and --off");
    }
    if (off_) return Set(service, io, {});
    if (codes_) return Set(service, io, Codes());
    MSA_ASSIGN_OR_RETURN(questions_, ReadQuestions(questions_path_, limit_));
    if (questions_.empty() || candidates_.empty()) {
      return absl::InvalidArgumentError(questions_.empty()
                                            ? StrCat(questions_path_, " holds no question")
                                            : std::string("--candidates names no number"));
    }
    return Calibrate(service, io);
  }

 private:
  static rpc::CoarseState Codes() {
    return {.codes = true, .candidates = rpc::CoarseState::kUncalibratedCandidates};
  }

  absl::Status Set(rpc::MemoryService& service, Io& io, const rpc::CoarseState& state) {
    MSA_ASSIGN_OR_RETURN(const rpc::CoarseState kept, service.SetCoarse(NewCall(), name_, state));
    if (json()) {
      io.out << Dump({{"bank", name_}, {"coarse", ToJson(kept)}}) << "\n";
    } else {
      io.out << "bank " << name_ << ": " << Describe(kept) << "\n";
    }
    return absl::OkStatus();
  }

  absl::Status Calibrate(rpc::MemoryService& service, Io& io) {
    MSA_ASSIGN_OR_RETURN(const bool had_codes, HasCodes(service));
    if (!had_codes) MSA_RETURN_IF_ERROR(service.SetCoarse(NewCall(), name_, Codes()).status());
    absl::Status status = Measure(service, io);
    // Nothing that was to be measured was: the bank stays as it was.
    if (!status.ok() || curve_.empty()) {
      if (!had_codes) status.Update(service.SetCoarse(NewCall(), name_, {}).status());
      return status.ok() ? absl::InternalError("the server compared no scans") : status;
    }
    const rpc::ScanComparison& best = Best(curve_);
    rpc::CoarseState state{.codes = true,
                           .candidates = best.candidates,
                           .top_k = top_k_,
                           .selections = best.selections,
                           .same = best.same};
    const absl::Status passed = state.CheckPassed(name_);
    state.on = passed.ok();
    state.codes = state.on || had_codes;
    MSA_ASSIGN_OR_RETURN(state, service.SetCoarse(NewCall(), name_, state));
    Report(state, io);
    if (state.candidates >= most_parts_) {
      io.err << "note: " << state.candidates << " candidates are all parts of every shard ("
             << WithCommas(most_parts_)
             << " at most), so the scans could not differ: calibrate again when the bank has "
                "grown\n";
    }
    return passed;
  }

  absl::StatusOr<bool> HasCodes(rpc::MemoryService& service) {
    MSA_ASSIGN_OR_RETURN(const rpc::BankStats stats, service.Stats(NewCall(), name_));
    bool codes = true;
    for (const rpc::ShardStatsEntry& shard : stats.shards) {
      MSA_RETURN_IF_ERROR(shard.status);
      codes = codes && shard.stats.coarse.codes;
      most_parts_ = std::max(most_parts_, shard.stats.num_parts);
    }
    return codes;
  }

  absl::Status Measure(rpc::MemoryService& service, Io& io) {
    absl::Mutex mu;
    Progress progress(io.err, io.err_is_terminal);
    uint64_t asked = 0;
    return ForEachConcurrently(questions_.size(), concurrency_, [&](size_t i) -> absl::Status {
      rpc::RetrieveRequest request;
      request.bank = name_;
      request.question = questions_[i].text;
      request.limit = 1;
      request.top_k = top_k_;
      request.compare_candidates = candidates_;
      auto reply = service.Retrieve(NewCall(), request);
      if (!reply.ok()) {
        return absl::Status(reply.status().code(),
                            StrCat("question ", questions_[i].id, ": ", reply.status().message()));
      }
      absl::MutexLock lock(&mu);
      rpc::AddComparisons(reply->comparisons, &curve_);
      progress.Update(++asked, questions_.size(), StrCat(asked, " questions"));
      return absl::OkStatus();
    });
  }

  void Report(const rpc::CoarseState& state, Io& io) const {
    if (json()) {
      Json curve = Json::array();
      for (const rpc::ScanComparison& at : curve_) curve.push_back(ToJson(at));
      io.out << Dump({{"bank", name_},
                      {"questions", questions_.size()},
                      {"curve", std::move(curve)},
                      {"coarse", ToJson(state)}})
             << "\n";
      return;
    }
    io.out << absl::StrFormat("%10s %12s %10s %12s %12s\n", "CANDIDATES", "SELECTIONS", "SAME %",
                              "FULL MS", "COARSE MS");
    for (const rpc::ScanComparison& at : curve_) {
      io.out << absl::StrFormat(
          "%10d %12s %10.3f %12.3f %12.3f\n", at.candidates, WithCommas(at.selections),
          100 * Mean(static_cast<double>(at.same), at.selections), Mean(at.exact_ms, at.selections),
          Mean(at.coarse_ms, at.selections));
    }
    io.out << "bank " << name_ << ": " << Describe(state) << "\n";
  }

  std::string name_;
  std::string questions_path_;
  std::vector<int32_t> candidates_ = {32, 64, 128, 256};
  int32_t top_k_ = 16;
  int32_t limit_ = 0;
  int32_t concurrency_ = 1;
  bool codes_ = false;
  bool off_ = false;

  int64_t most_parts_ = 0;  // of a shard
  std::vector<Question> questions_;
  std::vector<rpc::ScanComparison> curve_;  // by candidates
};

}  // namespace

std::unique_ptr<Verb> MakeBankCalibrateVerb(const Connector& connect) {
  return std::make_unique<BankCalibrateVerb>(connect);
}

}  // namespace msa::cli
