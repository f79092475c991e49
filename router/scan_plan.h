// How a session's questions are scanned: exactly, by codes, or both ways for a comparison
// (docs/decisions/0013). Pure.
#ifndef MSA_ROUTER_SCAN_PLAN_H_
#define MSA_ROUTER_SCAN_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"
#include "rpc/types.h"

namespace msa::router {

struct ScanPlan {
  int32_t candidates = 0;  // of every shard; 0: exact
  int32_t max_top_k = 0;   // requests for more parts are scanned exactly; 0: as many as they like
  std::vector<int32_t> compare_candidates;

  // Of a request for so many parts.
  int32_t CandidatesFor(int32_t top_k) const {
    return max_top_k > 0 && top_k > max_top_k ? 0 : candidates;
  }
};

// For a bank as its shards have it, with `num_parts` seen by the session. By default a bank is
// scanned by codes when it is on everywhere and no more than half of its parts came since it was
// calibrated. FAILED_PRECONDITION for coarse scans or comparisons of a bank that has no codes on
// some shard; INVALID_ARGUMENT for numbers of candidates out of range.
absl::StatusOr<ScanPlan> PlanScan(const std::vector<rpc::BankState>& shards, int64_t num_parts,
                                  const rpc::SessionOptions& options);

// FAILED_PRECONDITION for a state that is on without a calibration that passed: 999 of 1,000
// selections the same, of 1,000 or more.
absl::Status CheckCalibration(const std::string& bank, const rpc::CoarseState& state);

// Whether two selections are of the same parts in the same order.
bool SameParts(const std::vector<rpc::RoutedPart>& a, const std::vector<rpc::RoutedPart>& b);

}  // namespace msa::router

#endif  // MSA_ROUTER_SCAN_PLAN_H_
