#include "rpc/types.h"

#include <algorithm>

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
