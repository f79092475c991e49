#include "memory_node/scan_sharing.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/status_macros.h"
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
  Question question{&index, &shape, layer_index, &queries, false, false, {}, {}};
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
    const absl::Status status = RunPass(batch);
    mutex_.Lock();
    --running_;
    ++passes_;
    questions_ += static_cast<int64_t>(batch.size());
    for (Question* done : batch) {
      done->status = status;
      done->done = true;
    }
    changed_.SignalAll();
  }
  MSA_RETURN_IF_ERROR(question.status);
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

absl::Status ScanSharer::RunPass(const Batch& batch) const {
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
  }
  MSA_ASSIGN_OR_RETURN(kernels::Buffer buffer,
                       backend_->Allocate(batch.size() * num_parts * sizeof(float)));
  const auto memory = std::make_shared<const kernels::Buffer>(std::move(buffer));
  std::vector<kernels::KeySegment> segments;
  for (const SegmentView& segment : view) {
    segments.push_back(segment.segment->Keys(first.layer_index, segment.num_parts));
  }
  kernels::ScoreBankArgs args;
  args.shape = *first.shape;
  args.segments = segments;
  args.queries = batch.size() > 1 ? joined.data() : first.queries->data();
  args.query_begin = query_begin;
  args.scores = memory->as<float>();
  backend_->ScoreBank(args);
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i]->result = {
        view, {args.scores + i * num_parts, static_cast<size_t>(num_parts)}, memory};
  }
  return backend_->Health();
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

void KeepBest(int top_k, std::vector<rpc::RoutedPart>* routed) {
  const size_t count = std::min(routed->size(), static_cast<size_t>(top_k));
  std::partial_sort(routed->begin(), routed->begin() + count, routed->end(),
                    [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
  routed->resize(count);
}

// From scores the processor can read.
std::vector<rpc::RoutedPart> SelectFrom(const kernels::Backend& backend, const IndexView& views,
                                        absl::Span<const float> scores, uint64_t sequence,
                                        int top_k) {
  std::vector<rpc::RoutedPart> routed;
  for (const SegmentView& view : views) {
    AppendBest(backend, view, scores.first(view.num_parts), sequence, top_k, &routed);
    scores.remove_prefix(view.num_parts);
  }
  KeepBest(top_k, &routed);
  return routed;
}

rpc::RoutedPart PartAt(const IndexView& views, const kernels::Backend::IndexedScore& scored,
                       uint64_t sequence, bool* visible) {
  int64_t part = scored.index;
  auto view = views.begin();
  for (; part >= view->num_parts; ++view) part -= view->num_parts;
  *visible = view->segment->Visible(part, sequence);
  return {.scored = {scored.score, view->segment->references(view->num_parts)[part]},
          .shard = 0,
          .content_chunks = view->segment->content_chunks(part)};
}

// From scores on a device, of which only candidates leave it: enough of them that those nobody may
// see rarely use them up. False when they cannot tell the best: too few are visible, or a part with
// the score of the last chosen may have been left behind.
bool SelectFromCandidates(const kernels::Backend& backend, const PartScores& scores,
                          uint64_t sequence, int top_k, std::vector<rpc::RoutedPart>* routed) {
  constexpr int kMaxCandidates = 1024, kSpare = 16;
  const int wanted = std::min(kMaxCandidates, 2 * top_k + kSpare);
  const auto candidates =
      backend.TopIndices(scores.scores.data(), static_cast<int64_t>(scores.scores.size()), wanted);
  for (const auto& candidate : candidates) {
    bool visible = false;
    const rpc::RoutedPart part = PartAt(scores.view, candidate, sequence, &visible);
    if (visible) routed->push_back(part);
  }
  KeepBest(top_k, routed);
  if (static_cast<int>(candidates.size()) < wanted) return true;  // these are all there are
  return static_cast<int>(routed->size()) == top_k &&
         routed->back().scored.score > candidates.back().score;
}

}  // namespace

std::vector<float> ToHost(const kernels::Backend& backend, const PartScores& scores) {
  std::vector<float> host(scores.scores.size());
  backend.Copy(host.data(), scores.scores.data(), host.size() * sizeof(float));
  return host;
}

std::vector<rpc::RoutedPart> SelectBest(const kernels::Backend& backend, const PartScores& scores,
                                        uint64_t sequence, int top_k) {
  if (backend.memory_is_host()) {
    return SelectFrom(backend, scores.view, scores.scores, sequence, top_k);
  }
  std::vector<rpc::RoutedPart> routed;
  if (SelectFromCandidates(backend, scores, sequence, top_k, &routed)) return routed;
  return SelectFrom(backend, scores.view, ToHost(backend, scores), sequence, top_k);
}

}  // namespace msa::memory_node
