// What a pass over the keys of one layer says of one question. The scores stay in memory of the
// backend; so does what is needed to have the exact ones where the pass rounded (ScanMode).
#ifndef MSA_MEMORY_NODE_PART_SCORES_H_
#define MSA_MEMORY_NODE_PART_SCORES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/routing.h"
#include "kernels/backend.h"
#include "memory_node/routing_index.h"

namespace msa::memory_node {

// Parts nobody may see are scored too: the reader masks. Copies share the memory.
struct PartScores {
  IndexView view;  // whose parts the scores are of, segment after segment
  RoutingShape shape;
  int layer_index = 0;
  // Kept by `memory`, which is the backend's.
  absl::Span<const float> scores;  // [parts of the view]
  const float* queries = nullptr;  // [num_rows, query_width]; null where scores are exact anyway
  int32_t num_rows = 0;
  float error = 0;  // no score is further from the exact one; 0: all are exact; NaN: nothing known
  // Where the pass leaves the error while nobody has waited for it, in memory of the backend; null:
  // `error` has it.
  const float* pass_error = nullptr;
  bool loose = false;  // of a scan that may have rounded more than means bear (ScanMode::kLoose)
  // Above 0: scores are those of a coarse scan, and so many of the best have to be scored exactly.
  int32_t candidates = 0;
  std::shared_ptr<const void> memory;
};

int64_t NumParts(const IndexView& view);
// With codes where the view has them.
std::vector<kernels::KeySegment> KeysOf(const IndexView& view, int layer_index);

// The best `k` (1 … 1,024) with their exact scores, waiting once; takes the error over. REQUIRES:
// queries.
std::vector<kernels::ListedPart> ListBest(const kernels::Backend& backend, int k,
                                          PartScores* scores);
// Waits for the pass's error.
void TakeError(const kernels::Backend& backend, PartScores* scores);
// The scores where the processor reads them.
std::vector<float> ToHost(const kernels::Backend& backend, const PartScores& scores);
// Exact scores of some columns, into `out` [columns.size()]. REQUIRES: queries.
void ScoreColumns(const kernels::Backend& backend, const PartScores& scores,
                  absl::Span<const int32_t> columns, float* out);
// The same scores, exact: another pass over the keys where they are not. RESOURCE_EXHAUSTED when
// there is no memory for them.
absl::StatusOr<PartScores> MakeExact(const kernels::Backend& backend, const PartScores& scores);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_PART_SCORES_H_
