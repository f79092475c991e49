#include "memory_node/scan_sharing.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

// How often a waiting caller looks whether its client went away.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(50);

int64_t NumParts(const IndexView& view) {
  int64_t parts = 0;
  for (const SegmentView& segment : view) parts += segment.num_parts;
  return parts;
}

}  // namespace

ScanSharer::ScanSharer(const kernels::Backend* backend, const ScanOptions& options)
    : backend_(backend), options_(options) {}

int64_t ScanSharer::passes() const {
  absl::MutexLock lock(&mutex_);
  return passes_;
}

int64_t ScanSharer::questions() const {
  absl::MutexLock lock(&mutex_);
  return questions_;
}

int64_t ScanSharer::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(waiting_.size());
}

absl::StatusOr<PartScores> ScanSharer::Score(const rpc::CallContext& ctx, const RoutingIndex& index,
                                             const RoutingShape& shape, int layer_index,
                                             const std::vector<float>& queries) {
  Question question{&index, &shape, layer_index, &queries, false, false, {}};
  absl::MutexLock lock(&mutex_);
  if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
    return absl::ResourceExhaustedError(
        StrCat(options_.max_waiting, " questions wait for routing already; try again later"));
  }
  waiting_.push_back(&question);
  while (!question.done) {
    if (running_ >= options_.max_passes || waiting_.empty()) {
      if (absl::Status status = Wait(ctx, &question); !status.ok()) return status;
      continue;
    }
    const Batch batch = TakeBatch();
    ++running_;
    mutex_.Unlock();
    RunPass(batch);
    mutex_.Lock();
    --running_;
    ++passes_;
    questions_ += static_cast<int64_t>(batch.size());
    for (Question* done : batch) done->done = true;
    changed_.SignalAll();
  }
  return std::move(question.result);
}

absl::Status ScanSharer::Wait(const rpc::CallContext& ctx, Question* question) {
  changed_.WaitWithDeadline(&mutex_, std::min(ctx.deadline, absl::Now() + kCancelPoll));
  // A pass that has begun reads the queries: leave only from the queue.
  if (question->taken) return absl::OkStatus();
  absl::Status status;
  if (ctx.Cancelled()) {
    status = absl::CancelledError("the client went away while its question waited for routing");
  } else if (absl::Now() >= ctx.deadline) {
    status = absl::DeadlineExceededError("the deadline passed while waiting for routing");
  }
  if (!status.ok()) std::erase(waiting_, question);
  return status;
}

ScanSharer::Batch ScanSharer::TakeBatch() {
  const Question& head = *waiting_.front();
  Batch batch;
  int rows = 0;
  for (Question* question : waiting_) {
    if (question->index != head.index || question->layer_index != head.layer_index) continue;
    if (!batch.empty() && rows + question->rows() > options_.max_pass_rows) continue;
    rows += question->rows();
    question->taken = true;
    batch.push_back(question);
  }
  std::erase_if(waiting_, [](const Question* question) { return question->taken; });
  return batch;
}

void ScanSharer::RunPass(const Batch& batch) const {
  const Question& first = *batch.front();
  const IndexView view = first.index->View();
  const int64_t num_parts = NumParts(view);
  std::vector<int32_t> query_begin = {0};
  std::vector<float> joined;
  for (Question* question : batch) {
    query_begin.push_back(query_begin.back() + question->rows());
    if (batch.size() > 1) {
      joined.insert(joined.end(), question->queries->begin(), question->queries->end());
    }
    question->result.view = view;
    question->result.scores.resize(num_parts);
  }
  // [questions, parts of a segment], segment after segment; one question's are in place at once.
  std::vector<float> shared(batch.size() > 1 ? batch.size() * num_parts : 0);
  float* scores = batch.size() > 1 ? shared.data() : batch[0]->result.scores.data();
  std::vector<kernels::ScoreArgs> segments;
  for (const SegmentView& segment : view) {
    if (segment.num_parts == 0) continue;
    kernels::ScoreArgs& args = segments.emplace_back();
    args.shape = *first.shape;
    args.queries = batch.size() > 1 ? joined.data() : first.queries->data();
    args.query_begin = query_begin;
    args.segment = segment.segment->Keys(first.layer_index, segment.num_parts);
    args.scores = scores;
    scores += batch.size() * segment.num_parts;
  }
  backend_->ScoreSegments(segments);
  if (batch.size() == 1) return;
  int64_t done = 0;
  for (const kernels::ScoreArgs& args : segments) {
    const int64_t parts = args.segment.num_parts();
    for (size_t i = 0; i < batch.size(); ++i) {
      std::copy_n(args.scores + i * parts, parts, batch[i]->result.scores.data() + done);
    }
    done += parts;
  }
}

namespace {

// The best of one segment. SelectTopK gives references; their parts are those with a score no worse
// than the last chosen, so that few need a look.
void AppendBest(const kernels::Backend& backend, const SegmentView& view,
                absl::Span<const float> scores, uint64_t sequence, int top_k,
                std::vector<rpc::RoutedPart>* routed) {
  std::vector<uint8_t> visible(view.num_parts);
  for (int64_t part = 0; part < view.num_parts; ++part) {
    visible[part] = view.segment->Visible(part, sequence);
  }
  const auto references = view.segment->references(view.num_parts);
  const auto best = backend.SelectTopK(scores, references, visible.data(), top_k);
  if (best.empty()) return;
  absl::flat_hash_map<int64_t, size_t> chosen;
  for (const ScoredPart& part : best) {
    chosen[part.reference] = routed->size();
    routed->push_back({.scored = part, .shard = 0, .content_chunks = 0});
  }
  const float least = best.back().score;
  for (int64_t part = 0; part < view.num_parts; ++part) {
    if (!visible[part] || !(scores[part] >= least)) continue;
    const auto it = chosen.find(references[part]);
    if (it != chosen.end())
      (*routed)[it->second].content_chunks = view.segment->content_chunks(part);
  }
}

}  // namespace

std::vector<rpc::RoutedPart> SelectBest(const kernels::Backend& backend, const PartScores& scores,
                                        uint64_t sequence, int top_k) {
  std::vector<rpc::RoutedPart> routed;
  absl::Span<const float> left = scores.scores;
  for (const SegmentView& view : scores.view) {
    AppendBest(backend, view, left.first(view.num_parts), sequence, top_k, &routed);
    left.remove_prefix(view.num_parts);
  }
  const size_t count = std::min(routed.size(), static_cast<size_t>(top_k));
  std::partial_sort(routed.begin(), routed.begin() + count, routed.end(),
                    [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
  routed.resize(count);
  return routed;
}

}  // namespace msa::memory_node
