// Merges sorted lists of shards into the best k, by msa::Precedes: score descending, then reference
// ascending. Pure. The result depends on the items alone, not on how they are spread over lists.
#ifndef MSA_ROUTER_TOPK_MERGE_H_
#define MSA_ROUTER_TOPK_MERGE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::router {

// `lists`: one a shard, each best first (a list that is not is sorted first: a peer's mistake must
// not change an answer). References are unique over all lists. Gives min(k, items) items, best
// first, each with `shard` set to the index of its list. Items without a score (kNoScore, NaN) are
// left out. Cost: O(items + k log lists).
std::vector<rpc::RoutedPart> MergeTopK(std::vector<std::vector<rpc::RoutedPart>> lists, size_t k);
std::vector<rpc::RankedPart> MergeTopK(std::vector<std::vector<rpc::RankedPart>> lists, size_t k);

// A reference that two of `parts` have, which was given twice; nullopt: none, as it
// should be.
std::optional<int64_t> GivenTwice(const std::vector<rpc::RoutedPart>& parts);
std::optional<int64_t> GivenTwice(const std::vector<rpc::RankedPart>& parts);

}  // namespace msa::router

#endif  // MSA_ROUTER_TOPK_MERGE_H_
