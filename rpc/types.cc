#include "rpc/types.h"

#include <algorithm>

#include "common/strings.h"

namespace msa::rpc {

int64_t DocumentInfo::num_tokens() const {
  int64_t sum = 0;
  for (const PartInfo& part : parts) sum += part.num_tokens;
  return sum;
}

int64_t DocumentInfo::num_chunks() const {
  int64_t sum = 0;
  for (const PartInfo& part : parts) sum += part.routing_chunks;
  return sum;
}

absl::Status CoarseState::CheckPassed(std::string_view bank) const {
  if (top_k > 0 && selections >= kLeastCompared && same >= 0 && same <= selections &&
      selections - same <= selections / 1000) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      StrCat("coarse scans of bank '", bank, "' stay off: ", same, " of ", selections,
             " selections were the full scan's; 999 of 1,000 are needed, of ", kLeastCompared,
             " or more"));
}

void AddComparisons(const std::vector<ScanComparison>& more, std::vector<ScanComparison>* sums) {
  if (sums->empty()) {
    *sums = more;
    return;
  }
  for (size_t i = 0; i < std::min(more.size(), sums->size()); ++i) {
    (*sums)[i].selections += more[i].selections;
    (*sums)[i].same += more[i].same;
    (*sums)[i].exact_ms += more[i].exact_ms;
    (*sums)[i].coarse_ms += more[i].coarse_ms;
  }
}

}  // namespace msa::rpc
