// Sums of each part's scores over the layers routed in one round of one snapshot, for
// MemoryShard::Rank. Sums are doubles made in ascending layer order whatever order the layers come
// in, so that neither the arrival nor the shard layout shows in a rank.
//
// Thread-safety: none; its snapshot guards it.
#ifndef MSA_MEMORY_NODE_RANK_SUMS_H_
#define MSA_MEMORY_NODE_RANK_SUMS_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/routing.h"
#include "memory_node/scan_sharing.h"

namespace msa::memory_node {

struct RankOptions {
  int limit = 0;
  bool one_per_document = false;
  absl::Span<const int64_t> exclude;
};

class RankSums {
 public:
  // INVALID_ARGUMENT for a round that is over. A later round forgets the sums of the one before.
  absl::Status Begin(int32_t round);
  // Counts a layer's scores once a round, however often it is routed. `num_slots` is of the index.
  // Scores in memory that the processor cannot read stay there until they are ranked: most
  // sessions of a model that writes its references never are.
  void Add(const kernels::Backend& backend, int layer_index, const PartScores& scores,
           uint64_t sequence, uint32_t num_slots);
  // Best first by Precedes, over the parts of `view` visible at `sequence` now. FAILED_PRECONDITION
  // when no layer was routed in `round`. A document is told by its part's added mark.
  absl::StatusOr<std::vector<ScoredPart>> Rank(const kernels::Backend& backend, int32_t round,
                                               const IndexView& view, uint64_t sequence,
                                               const RankOptions& options);

 private:
  struct OnDevice {
    PartScores scores;
    uint32_t num_slots;
  };

  void AddHost(int layer_index, std::vector<float> by_slot);
  void FetchAll(const kernels::Backend& backend, uint64_t sequence);
  // Sums over all layers added, by slot.
  std::vector<double> Total() const;

  int32_t round_ = -1;
  std::set<int> layers_;      // added in this round
  int next_layer_ = 0;        // sums_ holds the layers below
  std::vector<double> sums_;  // by slot
  // Layers that came before one below them; by slot. Empty when layers come in order.
  std::map<int, std::vector<float>> early_;
  std::map<int, OnDevice> on_device_;  // not in sums_ yet
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_RANK_SUMS_H_
