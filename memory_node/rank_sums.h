// Ranks parts by the mean of their scores over the layers routed in one round of one snapshot, for
// MemoryShard::Rank. Means are of sums in double precision, made in ascending layer order whatever
// order the layers come in, so that neither the arrival nor the shard layout shows in a rank; and
// of exact scores, whatever the passes rounded. After coarse scans the parts ranked are the
// candidates with the best coarse means.
//
// Thread-safety: none; its snapshot guards it.
#ifndef MSA_MEMORY_NODE_RANK_SUMS_H_
#define MSA_MEMORY_NODE_RANK_SUMS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/routing.h"
#include "memory_node/part_scores.h"
#include "memory_node/selection.h"

namespace msa::memory_node {

struct RankOptions {
  int limit = 0;
  bool one_per_document = false;
  absl::Span<const int64_t> exclude = {};
};

class RankSums {
 public:
  // INVALID_ARGUMENT for a round that is over. A later round forgets the sums of the one before.
  absl::Status Begin(int32_t round);
  // Counts a layer's scores once a round, however often it is routed. `num_slots` is of the index.
  // Scores stay where they are until they are ranked. REQUIRES: their error is known.
  void Add(const PartScores& scores, uint32_t num_slots);
  // Best first by Precedes, over the parts of `view` visible at `sequence` now. FAILED_PRECONDITION
  // when no layer was routed in `round`; RESOURCE_EXHAUSTED when there is no memory for the means;
  // UNAVAILABLE when the backend failed. A document is told by its part's added mark.
  absl::StatusOr<std::vector<ScoredPart>> Rank(const kernels::Backend& backend, int32_t round,
                                               const IndexView& view, uint64_t sequence,
                                               const RankOptions& options,
                                               SelectionCounts& counts) const;

 private:
  struct Layer {
    PartScores scores;
    uint32_t num_slots = 0;
  };

  // Whether all layers scored the same parts in the same places.
  bool SameView() const;
  // From the parts whose means are best. Nullopt when these do not tell.
  absl::StatusOr<std::optional<std::vector<ScoredPart>>> RankListed(
      const kernels::Backend& backend, uint64_t sequence, const RankOptions& options) const;
  std::vector<float> ExactMeans(const kernels::Backend& backend,
                                const std::vector<Candidate>& candidates) const;
  absl::StatusOr<std::vector<ScoredPart>> RankAll(const kernels::Backend& backend,
                                                  const IndexView& view, uint64_t sequence,
                                                  const RankOptions& options) const;
  // Of means of the scores against means of exact ones; NaN with a coarse layer among them.
  float MeanError() const;
  bool Loose() const;          // whether a layer's scan was
  int32_t Candidates() const;  // the most that a layer's scan asks for; 0: none was coarse

  int32_t round_ = -1;
  std::map<int, Layer> layers_;  // of this round, by index
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_RANK_SUMS_H_
