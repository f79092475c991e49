#include "router/scan_plan.h"

#include <algorithm>

#include "common/limits.h"
#include "common/strings.h"

namespace msa::router {
namespace {

constexpr size_t kMaxComparisons = 16;

// Whether at most half of the bank came since its calibration.
bool StillCalibrated(const std::vector<rpc::BankState>& shards, const rpc::CoarseState& coarse,
                     int64_t num_parts) {
  int64_t next_reference = 0;
  for (const rpc::BankState& state : shards) {
    next_reference = std::max(next_reference, state.next_reference);
  }
  return 2 * (next_reference - coarse.next_reference) <= num_parts;
}

}  // namespace

absl::StatusOr<ScanPlan> PlanScan(const std::vector<rpc::BankState>& shards, int64_t num_parts,
                                  const rpc::SessionOptions& options) {
  ScanPlan plan;
  const bool compares = !options.compare_candidates.empty();
  if (shards.empty() || (options.scan == rpc::Scan::kExact && !compares)) return plan;
  const auto all = [&](auto predicate) {
    return std::all_of(shards.begin(), shards.end(), predicate);
  };
  const bool codes = all([](const rpc::BankState& state) { return state.coarse.codes; });
  if (!codes && (compares || options.scan == rpc::Scan::kCoarse)) {
    return absl::FailedPreconditionError(StrCat(
        "bank '", shards.front().spec.name,
        "' keeps no codes for coarse scans on every shard: `msa bank calibrate` makes them"));
  }
  if (compares) {
    const auto [least, most] =
        std::minmax_element(options.compare_candidates.begin(), options.compare_candidates.end());
    if (options.compare_candidates.size() > kMaxComparisons || *least < 1 ||
        *most > kMaxCandidates) {
      return absl::InvalidArgumentError(StrCat(
          "compare up to ", kMaxComparisons, " numbers of candidates, each 1 to ", kMaxCandidates));
    }
    plan.compare_candidates = options.compare_candidates;
    return plan;
  }
  const rpc::CoarseState& coarse = shards.front().coarse;
  if (options.scan == rpc::Scan::kCoarse) {
    plan.candidates =
        coarse.candidates > 0 ? coarse.candidates : rpc::CoarseState::kUncalibratedCandidates;
    return plan;
  }
  const bool on =
      all([&](const rpc::BankState& state) { return state.coarse.on && state.coarse == coarse; });
  if (!on || !StillCalibrated(shards, coarse, num_parts)) return plan;
  plan.candidates = coarse.candidates;
  plan.max_top_k = coarse.top_k;
  return plan;
}

absl::Status CheckCalibration(const std::string& bank, const rpc::CoarseState& state) {
  return state.on ? state.CheckPassed(bank) : absl::OkStatus();
}

bool SameParts(const std::vector<rpc::RoutedPart>& a, const std::vector<rpc::RoutedPart>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const rpc::RoutedPart& x, const rpc::RoutedPart& y) {
                      return x.scored.reference == y.scored.reference;
                    });
}

}  // namespace msa::router
