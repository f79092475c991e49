// What members of a group scored in one pass, each its own columns, and what of it is lacking.
#ifndef MSA_KERNELS_GROUP_PASS_H_
#define MSA_KERNELS_GROUP_PASS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "kernels/buffer.h"
#include "kernels/types.h"

namespace msa::kernels {

// Consecutive columns of the scores that are consecutive with a member, too.
struct ColumnRun {
  int64_t column = 0;  // of the whole row
  int64_t parts = 0;
};

// A member's columns of what one pass scored.
struct GroupPiece {
  std::vector<ColumnRun> runs;  // in the order of columns
  int64_t num_parts = 0;        // of all runs
  Buffer memory;  // [num_questions, num_parts], then errors [num_questions]; the member's

  float* row(int64_t question) const { return memory.as<float>() + question * num_parts; }
  // The column of the whole row.
  int64_t Column(int64_t part) const {
    auto run = runs.begin();
    for (; part >= run->parts; ++run) part -= run->parts;
    return run->column + part;
  }
  // The other way round; -1 when it is another member's.
  int64_t PartOf(int64_t column) const {
    int64_t part = 0;
    for (const ColumnRun& run : runs) {
      if (column >= run.column && column < run.column + run.parts) {
        return part + column - run.column;
      }
      part += run.parts;
    }
    return -1;
  }
  void Add(int64_t column, int64_t parts) {
    num_parts += parts;
    if (!runs.empty() && runs.back().column + runs.back().parts == column) {
      runs.back().parts += parts;
    } else {
      runs.push_back({column, parts});
    }
  }
};

// The segments of a member, and where their columns are.
inline std::vector<KeySegment> SegmentsOf(int m, absl::Span<const KeySegment> all,
                                          GroupPiece* piece) {
  std::vector<KeySegment> segments;
  int64_t column = 0;
  for (const KeySegment& segment : all) {
    const int64_t parts = segment.num_parts();
    if (segment.member == m && parts > 0) {
      segments.push_back(segment);
      piece->Add(column, parts);
    }
    column += parts;
  }
  return segments;
}

// What a pass scored, with those who scored it.
class GroupPass {
 public:
  static constexpr int64_t kAll = -1;

  // That a member had no memory for scores (kAll) or for a list of the best of one question.
  // Thread-safe: those who hold the pass are many.
  void Lack(const absl::Status& status, int64_t question = kAll) const {
    absl::MutexLock lock(&mutex_);
    lacks_[question].Update(status);
  }
  // What is lacking to scores, and to the list of the question where one is named.
  absl::Status status(int64_t question = kAll) const {
    absl::MutexLock lock(&mutex_);
    absl::Status status;
    for (const int64_t of : {kAll, question}) {
      if (const auto it = lacks_.find(of); it != lacks_.end()) status.Update(it->second);
    }
    return status;
  }

  int64_t num_questions = 0;
  int64_t num_parts = 0;
  std::vector<GroupPiece> pieces;  // one a member

 private:
  mutable absl::Mutex mutex_;
  mutable std::map<int64_t, absl::Status> lacks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_GROUP_PASS_H_
