#include "cli/coarse.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "cli/progress.h"

namespace msa::cli {

void AddScanFlag(FlagSet& flags, std::string* scan) {
  flags.AddChoice("--scan", scan, {"default", "exact", "coarse"},
                  "How routing reads the bank's keys: all of them, by their 4-bit codes first, or "
                  "as the bank says");
}

rpc::Scan ParseScan(const std::string& scan) {
  if (scan == "exact") return rpc::Scan::kExact;
  return scan == "coarse" ? rpc::Scan::kCoarse : rpc::Scan::kDefault;
}

std::string Describe(const rpc::CoarseState& state) {
  std::string text = state.on      ? "coarse scans are on"
                     : state.codes ? "coarse scans are for requests that ask for them"
                                   : "coarse scans are off, no codes are kept";
  if (state.candidates > 0) absl::StrAppendFormat(&text, ", %d candidates", state.candidates);
  if (state.selections > 0) {
    absl::StrAppendFormat(&text, ": %s of %s selections of %d were the full scan's",
                          WithCommas(state.same), WithCommas(state.selections), state.top_k);
  }
  return text;
}

double AddedSince(const rpc::CoarseState& state, int64_t num_parts, int64_t next_reference) {
  if (state.selections == 0 || num_parts == 0) return 0;
  const auto added = static_cast<double>(next_reference - state.next_reference);
  return std::clamp(added / static_cast<double>(num_parts), 0.0, 1.0);
}

}  // namespace msa::cli
