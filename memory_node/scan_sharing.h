// Scores of every part of an index for one question's routing queries. Questions that ask for the
// same layer at the same time share one pass over the keys: the pass is bound by memory, so the
// second question is nearly free. Backends score each question to the bit as if alone.
//
// There is no thread of its own: callers take turns at running passes, at most `max_passes` at a
// time, each for all that wait for the layer at the head of the queue. A GPU is asked for a pass,
// and waited for by whoever needs its scores.
#ifndef MSA_MEMORY_NODE_SCAN_SHARING_H_
#define MSA_MEMORY_NODE_SCAN_SHARING_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/routing.h"
#include "kernels/backend.h"
#include "memory_node/part_scores.h"
#include "memory_node/routing_index.h"
#include "rpc/types.h"

namespace msa::memory_node {

struct ScanOptions {
  int max_passes = 1;       // a backend spreads a pass over all cores
  int max_waiting = 1024;   // questions
  int max_pass_rows = 512;  // query rows in a pass of more than one question
  // Questions of more rows are scanned in full: codes are read once for every 64 rows, bf16 keys
  // once for 256 (docs/decisions/0013).
  int max_coarse_rows = 128;
};

// One question's scan of one layer. What it points to is borrowed till Score returns.
struct ScanRequest {
  const RoutingIndex* index;
  const RoutingShape* shape;
  int layer_index;                    // among the bank's router layers
  const std::vector<float>* queries;  // [rows, shape->query_width()]
  // Above 0, the scores are coarse, where the index keeps codes and the question is not too long
  // for them to be of use.
  int32_t candidates = 0;
  // Scores may be rounded as ScanMode::kLoose allows, where the others of the pass may, too.
  bool loose = false;

  bool coarse() const { return candidates > 0; }
  int rows() const { return static_cast<int>(queries->size()) / shape->query_width(); }
};

class ScanSharer {
 public:
  // `backend` is borrowed.
  ScanSharer(const kernels::Backend* backend, const ScanOptions& options);

  // The view is taken after the call began. Scores may be rounded, as `pass_error` will say: the
  // pass has been asked for, not waited for.
  // DEADLINE_EXCEEDED, CANCELLED while waiting; RESOURCE_EXHAUSTED when too many wait or there is
  // no memory for the scores; UNAVAILABLE when the backend failed.
  absl::StatusOr<PartScores> Score(const rpc::CallContext& ctx, const ScanRequest& request);

  int64_t passes() const;     // made since start
  int64_t questions() const;  // answered by them
  int64_t waiting() const;    // now, for a pass to begin

 private:
  struct Question {
    ScanRequest scan;
    bool taken = false;
    bool done = false;
    absl::Status status = absl::OkStatus();
    PartScores result = {};
  };
  using Batch = std::vector<Question*>;

  // Returns when a pass has been asked for with the question in it.
  absl::Status Answer(const rpc::CallContext& ctx, Question* question);
  Batch TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RunPass(const Batch& batch) const;
  absl::Status Wait(const rpc::CallContext& ctx, Question* question)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const kernels::Backend* const backend_;
  const ScanOptions options_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<Question*> waiting_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t passes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t questions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SCAN_SHARING_H_
