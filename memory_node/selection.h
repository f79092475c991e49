// The best parts from scores that may be rounded: exact scores, proven order. Parts whose rounded
// scores lie within twice the error of the last place are scored again; where a backend lists too
// few to tell, all are. Coarse scores prove nothing: as many of the best as the scan says are
// scored again, equal ones with them, so that the answer does not depend on how parts lie.
#ifndef MSA_MEMORY_NODE_SELECTION_H_
#define MSA_MEMORY_NODE_SELECTION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "memory_node/part_scores.h"
#include "memory_node/routing_index.h"
#include "rpc/types.h"

namespace msa::memory_node {

// Whether passes over a bank may round so far that its ranks are not always told (kLoose). They may
// until the keys had to be read again for it; then not for as many ranks as a pause has, each of
// which is four times the one before: banks whose layers agree keep the faster passes, the others
// lose next to nothing. Thread-safe.
class LooseScans {
 public:
  static constexpr int64_t kFirstPause = 64;
  static constexpr int64_t kLastPause = int64_t{1} << 20;

  bool allowed() const { return pause_ <= 0; }
  // A rank came of scores of loose scans, or of others.
  void CountRank(bool loose) {
    if (!loose && pause_ > 0) --pause_;
  }
  // Scores of loose scans did not tell. Nothing more comes of the others that are on their way.
  void Pause() {
    if (!allowed()) return;
    const int64_t pause = next_;
    pause_ = pause;
    next_ = pause < kLastPause ? 4 * pause : pause;
  }

 private:
  std::atomic<int64_t> pause_{0};  // ranks until they may again
  std::atomic<int64_t> next_{kFirstPause};
};

// How answers were found, since start. Thread-safe.
struct SelectionCounts {
  std::atomic<int64_t> rounded{0};    // from rounded scores, proven
  std::atomic<int64_t> rescanned{0};  // these, or coarse ones, could not tell: another pass, exact
  std::atomic<int64_t> coarse{0};     // from coarse scores and exact ones of the candidates
  LooseScans loose;
};

// A part of a view.
struct Candidate {
  float score = 0;             // as listed: may be rounded
  std::optional<float> exact;  // where it was listed with it
  int32_t column = 0;          // of the scores
  const Segment* segment = nullptr;
  int64_t part = 0;

  int64_t reference() const { return segment->references(part + 1)[part]; }
  uint64_t document() const { return segment->added(part); }  // parts of one have one mark
};

struct ShortlistArgs {
  int count = 0;                  // the best so many are wanted
  bool one_per_document = false;  // a document counts once
  float error = 0;                // no score is further from the exact one than this
  float relative_error = 0;       // and this share of the largest listed
  std::function<bool(const Candidate&)> eligible;
  // Exact scores of candidates, for when scores that may be off by the error do not tell; may be
  // null.
  std::function<std::vector<float>(const std::vector<Candidate>&)> exact;
};

// Every eligible part that can be among the best, by the scores [parts of the view] in memory of
// the backend; best first. Nullopt when the 1,024 that a backend lists do not tell.
std::optional<std::vector<Candidate>> Shortlist(const kernels::Backend& backend,
                                                const IndexView& view,
                                                absl::Span<const float> scores,
                                                const ShortlistArgs& args);

// The best `top_k` that are visible at `sequence`, best first by Precedes; independent of how parts
// lie in segments. Takes the scores' error over from the pass, if it has to be waited for.
// content_chunks is filled in, shard is 0. RESOURCE_EXHAUSTED as MakeExact;
// UNAVAILABLE when the backend failed.
absl::StatusOr<std::vector<rpc::RoutedPart>> SelectBest(const kernels::Backend& backend,
                                                        PartScores* scores, uint64_t sequence,
                                                        int top_k, SelectionCounts& counts);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SELECTION_H_
