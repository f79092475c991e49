#include "router/topk_merge.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/routing.h"

namespace msa::router {
namespace {

struct Head {
  size_t list;
  size_t at;
};

template <class Part>
void Clean(std::vector<Part>& list) {
  list.erase(std::remove_if(list.begin(), list.end(),
                            // NaN compares false too, and would break the order.
                            [](const Part& part) { return !(part.scored.score > kNoScore); }),
             list.end());
  const auto precedes = [](const Part& a, const Part& b) { return Precedes(a.scored, b.scored); };
  if (!std::is_sorted(list.begin(), list.end(), precedes)) {
    std::sort(list.begin(), list.end(), precedes);
  }
}

template <class Part>
std::vector<Part> Merge(std::vector<std::vector<Part>> lists, size_t k) {
  const auto later = [&lists](const Head& a, const Head& b) {
    return Precedes(lists[b.list][b.at].scored, lists[a.list][a.at].scored);
  };
  std::priority_queue<Head, std::vector<Head>, decltype(later)> heads(later);
  size_t items = 0;
  for (size_t i = 0; i < lists.size(); ++i) {
    Clean(lists[i]);
    items += lists[i].size();
    if (!lists[i].empty()) heads.push({i, 0});
  }
  std::vector<Part> best;
  best.reserve(std::min(k, items));
  while (best.size() < k && !heads.empty()) {
    const Head head = heads.top();
    heads.pop();
    best.push_back(lists[head.list][head.at]);
    best.back().shard = static_cast<int32_t>(head.list);
    if (head.at + 1 < lists[head.list].size()) heads.push({head.list, head.at + 1});
  }
  return best;
}

template <class Part>
std::optional<int64_t> Twice(const std::vector<Part>& parts) {
  absl::flat_hash_set<int64_t> seen;
  for (const Part& part : parts) {
    if (!seen.insert(part.scored.reference).second) return part.scored.reference;
  }
  return std::nullopt;
}

}  // namespace

std::vector<rpc::RoutedPart> MergeTopK(std::vector<std::vector<rpc::RoutedPart>> lists, size_t k) {
  return Merge(std::move(lists), k);
}

std::vector<rpc::RankedPart> MergeTopK(std::vector<std::vector<rpc::RankedPart>> lists, size_t k) {
  return Merge(std::move(lists), k);
}

std::optional<int64_t> GivenTwice(const std::vector<rpc::RoutedPart>& parts) {
  return Twice(parts);
}

std::optional<int64_t> GivenTwice(const std::vector<rpc::RankedPart>& parts) {
  return Twice(parts);
}

}  // namespace msa::router
