#include "memory_node/scan_sharing.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

// How often a waiting caller looks whether its client went away.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(50);

// What a pass leaves in memory of the backend: one piece of it, as asking for one takes a while.
struct PassMemory {
  kernels::Buffer buffer;
  float* queries = nullptr;  // of all; null where the processor's are read
  float* scores = nullptr;   // [questions, parts]
  float* errors = nullptr;   // [questions]
};

absl::StatusOr<std::shared_ptr<const PassMemory>> MakePassMemory(
    const kernels::Backend& backend, size_t num_questions, size_t num_parts, bool coarse,
    const std::vector<float>& queries) {
  constexpr size_t kAlignment = 64;  // floats
  // On the processor scores are exact unless coarse: nobody asks for the questions again.
  const bool keeps = !backend.memory_is_host() || coarse;
  const size_t kept = keeps ? (queries.size() + kAlignment - 1) / kAlignment * kAlignment : 0;
  auto memory = std::make_shared<PassMemory>();
  MSA_ASSIGN_OR_RETURN(memory->buffer,
                       backend.Allocate((kept + num_questions * (num_parts + 1)) * sizeof(float)));
  memory->scores = memory->buffer.as<float>() + kept;
  memory->errors = memory->scores + num_questions * num_parts;
  if (!keeps) return memory;
  memory->queries = memory->buffer.as<float>();
  backend.Copy(memory->queries, queries.data(), queries.size() * sizeof(float));
  return memory;
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

absl::StatusOr<PartScores> ScanSharer::Score(const rpc::CallContext& ctx,
                                             const ScanRequest& request) {
  Question question{.scan = request};
  if (request.rows() > options_.max_coarse_rows) question.scan.candidates = 0;
  MSA_RETURN_IF_ERROR(Answer(ctx, &question));
  MSA_RETURN_IF_ERROR(backend_->Health());
  return std::move(question.result);
}

absl::Status ScanSharer::Answer(const rpc::CallContext& ctx, Question* question) {
  absl::MutexLock lock(&mutex_);
  if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
    return absl::ResourceExhaustedError(
        StrCat(options_.max_waiting, " questions wait for routing already; try again later"));
  }
  waiting_.push_back(question);
  while (!question->done) {
    if (running_ >= options_.max_passes || waiting_.empty()) {
      if (absl::Status status = Wait(ctx, question); !status.ok()) return status;
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
  return question->status;
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
  const ScanRequest& head = waiting_.front()->scan;
  Batch batch;
  int rows = 0;
  for (Question* question : waiting_) {
    const ScanRequest& scan = question->scan;
    if (scan.index != head.index || scan.layer_index != head.layer_index) continue;
    if (scan.coarse() != head.coarse()) continue;
    if (!batch.empty() && rows + scan.rows() > options_.max_pass_rows) continue;
    rows += scan.rows();
    question->taken = true;
    batch.push_back(question);
  }
  std::erase_if(waiting_, [](const Question* question) { return question->taken; });
  return batch;
}

absl::Status ScanSharer::RunPass(const Batch& batch) const {
  const ScopedRequestId none("");  // whose turn it is may not even be among them
  const ScanRequest& first = batch.front()->scan;
  const IndexView view = first.index->View();
  // A bank that gave its codes up meanwhile is scanned in full.
  const bool coarse =
      first.coarse() && std::all_of(view.begin(), view.end(), [](const SegmentView& segment) {
        return segment.codes != nullptr;
      });
  const auto num_parts = static_cast<size_t>(NumParts(view));
  std::vector<int32_t> query_begin = {0};
  std::vector<float> joined;
  for (const Question* question : batch) {
    const ScanRequest& scan = question->scan;
    query_begin.push_back(query_begin.back() + scan.rows());
    if (batch.size() > 1) joined.insert(joined.end(), scan.queries->begin(), scan.queries->end());
  }
  const std::vector<float>& queries = batch.size() > 1 ? joined : *first.queries;
  MSA_ASSIGN_OR_RETURN(const auto memory,
                       MakePassMemory(*backend_, batch.size(), num_parts, coarse, queries));
  const bool kept = memory->queries != nullptr;
  for (const SegmentView& segment : view) {
    if (!coarse) segment.segment->UpdateMaxNorm(first.layer_index, segment.num_parts);
  }
  const auto segments = KeysOf(view, first.layer_index);
  kernels::ScoreBankArgs args;
  args.shape = *first.shape;
  args.segments = segments;
  args.queries = kept ? memory->queries : queries.data();
  args.query_begin = query_begin;
  args.scores = memory->scores;
  const bool loose = !coarse && std::all_of(batch.begin(), batch.end(),
                                            [](const Question* q) { return q->scan.loose; });
  args.mode = coarse  ? kernels::ScanMode::kCoarse
              : loose ? kernels::ScanMode::kLoose
                      : kernels::ScanMode::kBounded;
  if (!coarse) args.errors = memory->errors;
  const bool exact = !backend_->ScoreBank(args);
  for (size_t i = 0; i < batch.size(); ++i) {
    PartScores& result = batch[i]->result;
    result.view = view;
    result.shape = *first.shape;
    result.layer_index = first.layer_index;
    result.scores = {args.scores + i * num_parts, num_parts};
    if (kept) result.queries = args.queries + query_begin[i] * first.shape->query_width();
    result.num_rows = batch[i]->scan.rows();
    if (coarse) result.candidates = batch[i]->scan.candidates;
    if (!exact) result.error = std::numeric_limits<float>::quiet_NaN();  // until it is known
    result.loose = loose && !exact;
    if (!exact && !coarse) result.pass_error = args.errors + i;
    result.memory = memory;
  }
  return backend_->StatusOf(args.scores);
}

}  // namespace msa::memory_node
