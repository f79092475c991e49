#include "kernels/group_backend.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "kernels/forwarding_backend.h"

namespace msa::kernels {
namespace {

// Consecutive columns of the scores that are consecutive with a member, too.
struct Run {
  int64_t column = 0;  // of the whole row
  int64_t parts = 0;
};

// A member's columns of what one pass scored.
struct Piece {
  std::vector<Run> runs;  // in the order of columns
  int64_t num_parts = 0;  // of all runs
  Buffer scores;          // [num_questions, num_parts], in the member's memory

  const float* row(int64_t question) const { return scores.as<float>() + question * num_parts; }
  // The column of the whole row.
  int64_t Column(int64_t part) const {
    auto run = runs.begin();
    for (; part >= run->parts; ++run) part -= run->parts;
    return run->column + part;
  }
};

// What a pass scored, with those who scored it.
struct Ticket {
  int64_t num_questions = 0;
  int64_t num_parts = 0;
  std::vector<Piece> pieces;  // one a member
};

class GroupBackend : public ForwardingBackend {
 public:
  GroupBackend(std::vector<const Backend*> members, std::unique_ptr<Collective> collective)
      : ForwardingBackend(*members.front()),
        members_(std::move(members)),
        collective_(std::move(collective)),
        threads_(static_cast<int>(members_.size())) {}

  int num_members() const override { return static_cast<int>(members_.size()); }
  const Backend& member(int index) const override { return *members_[index]; }
  bool memory_is_host() const override { return false; }
  int64_t free_bytes() const override {
    int64_t most = 0;
    for (const Backend* member : members_) most = std::max(most, member->free_bytes());
    return most;
  }
  absl::Status Health() const override {
    {
      absl::MutexLock lock(&mutex_);
      MSA_RETURN_IF_ERROR(error_);
    }
    for (const Backend* member : members_) MSA_RETURN_IF_ERROR(member->Health());
    return collective_ == nullptr ? absl::OkStatus() : collective_->Health();
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose) const override;
  void Copy(void* to, const void* from, size_t bytes) const override;
  void ScoreParts(const ScoreArgs& args) const override {
    ScoreBank({args.shape, {&args.segment, 1}, args.queries, args.query_begin, args.scores});
  }
  void ScoreBank(const ScoreBankArgs& args) const override;
  std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const override;
  void TopIndicesInto(const float* scores, int64_t n, int k, void* out) const override {
    Backend::TopIndicesInto(scores, n, k, out);
  }

 private:
  // body(m) for every member, at once.
  void ForEachMember(absl::FunctionRef<void(int)> body) const {
    threads_.ParallelFor(0, num_members(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) body(static_cast<int>(m));
    });
  }
  void Fail(const absl::Status& status) const {
    absl::MutexLock lock(&mutex_);
    error_.Update(status);
  }
  // The ticket of the row that begins at `scores`, and its question. Null when there is none.
  std::shared_ptr<const Ticket> Find(const float* scores, int64_t* question) const;
  void Keep(float* scores, std::shared_ptr<const Ticket> ticket) const;
  void Release(void* data, size_t bytes) const;
  void ScoreOn(int m, const ScoreBankArgs& args, Piece* piece) const;
  absl::Status Gather(absl::Span<const Buffer> found, size_t bytes, char* out) const;

  const std::vector<const Backend*> members_;
  const std::unique_ptr<Collective> collective_;
  mutable ThreadPool threads_;
  mutable absl::Mutex mutex_;
  mutable std::map<const float*, std::shared_ptr<const Ticket>> tickets_
      ABSL_GUARDED_BY(mutex_);  // by where their scores would begin
  mutable absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<Buffer> GroupBackend::Allocate(size_t bytes, Purpose purpose) const {
  // Pages that nobody writes take no memory: a ticket's cost is its address.
  auto host = std::make_shared<Buffer>(AllocateHost(bytes));
  if (host->data() == nullptr) {
    return absl::ResourceExhaustedError("no address space for scores");
  }
  return Buffer(host->data(), bytes, [this, host, bytes](void* data) { Release(data, bytes); });
}

void GroupBackend::Release(void* data, size_t bytes) const {
  const auto* begin = static_cast<const float*>(data);
  std::vector<std::shared_ptr<const Ticket>> ended;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  auto it = tickets_.lower_bound(begin);
  while (it != tickets_.end() && it->first < begin + bytes / sizeof(float)) {
    ended.push_back(std::move(it->second));
    it = tickets_.erase(it);
  }
}

std::shared_ptr<const Ticket> GroupBackend::Find(const float* scores, int64_t* question) const {
  absl::MutexLock lock(&mutex_);
  auto it = tickets_.upper_bound(scores);
  if (it == tickets_.begin()) return nullptr;
  --it;
  const Ticket& ticket = *it->second;
  const int64_t at = scores - it->first;
  if (at >= ticket.num_questions * ticket.num_parts) return nullptr;
  MSA_CHECK(at % ticket.num_parts == 0);
  *question = at / ticket.num_parts;
  return it->second;
}

void GroupBackend::Keep(float* scores, std::shared_ptr<const Ticket> ticket) const {
  absl::MutexLock lock(&mutex_);
  tickets_[scores].swap(ticket);
}

void GroupBackend::ScoreOn(int m, const ScoreBankArgs& args, Piece* piece) const {
  std::vector<KeySegment> segments;
  int64_t column = 0;
  for (const KeySegment& segment : args.segments) {
    const int64_t parts = segment.num_parts();
    if (segment.member == m && parts > 0) {
      segments.push_back(segment);
      piece->num_parts += parts;
      if (!piece->runs.empty() && piece->runs.back().column + piece->runs.back().parts == column) {
        piece->runs.back().parts += parts;
      } else {
        piece->runs.push_back({column, parts});
      }
    }
    column += parts;
  }
  if (segments.empty()) return;
  const int64_t num_questions = static_cast<int64_t>(args.query_begin.size()) - 1;
  // kResident: a pass whose scores do not fit must not fail for good.
  auto scores =
      members_[m]->Allocate(num_questions * piece->num_parts * sizeof(float), Purpose::kResident);
  if (!scores.ok()) {
    Fail(scores.status());
    *piece = Piece();
    return;
  }
  piece->scores = *std::move(scores);
  ScoreBankArgs of_member = args;
  of_member.segments = segments;
  of_member.scores = piece->scores.as<float>();
  members_[m]->ScoreBank(of_member);
}

void GroupBackend::ScoreBank(const ScoreBankArgs& args) const {
  auto ticket = std::make_shared<Ticket>();
  ticket->num_questions = static_cast<int64_t>(args.query_begin.size()) - 1;
  for (const KeySegment& segment : args.segments) ticket->num_parts += segment.num_parts();
  if (ticket->num_parts == 0) return;
  ticket->pieces.resize(members_.size());
  ForEachMember([&](int m) { ScoreOn(m, args, &ticket->pieces[m]); });
  Keep(args.scores, std::move(ticket));
}

void GroupBackend::Copy(void* to, const void* from, size_t bytes) const {
  int64_t question = 0;
  const auto ticket = bytes == 0 ? nullptr : Find(static_cast<const float*>(from), &question);
  if (ticket == nullptr) return Backend::Copy(to, from, bytes);
  const int64_t row_bytes = ticket->num_parts * sizeof(float);
  MSA_CHECK(bytes % row_bytes == 0);
  auto* row = static_cast<float*>(to);
  for (const int64_t end = question + bytes / row_bytes; question < end; ++question) {
    ForEachMember([&](int m) {
      const float* scores = ticket->pieces[m].row(question);
      for (const Run& run : ticket->pieces[m].runs) {
        members_[m]->Copy(row + run.column, scores, run.parts * sizeof(float));
        scores += run.parts;
      }
    });
    row += ticket->num_parts;
  }
}

absl::Status GroupBackend::Gather(absl::Span<const Buffer> found, size_t bytes, char* out) const {
  std::vector<const void*> from;
  for (const Buffer& buffer : found) from.push_back(buffer.data());
  if (collective_ != nullptr) return collective_->AllGather(from, bytes, out);
  for (size_t m = 0; m < from.size(); ++m) members_[m]->Copy(out + m * bytes, from[m], bytes);
  return absl::OkStatus();
}

std::vector<Backend::IndexedScore> GroupBackend::TopIndices(const float* scores, int64_t n,
                                                            int k) const {
  int64_t question = 0;
  const auto ticket = n == 0 ? nullptr : Find(scores, &question);
  if (ticket == nullptr) return Backend::TopIndices(scores, n, k);
  MSA_CHECK(n == ticket->num_parts);
  const size_t bytes = TopIndicesBytes(k);
  std::vector<Buffer> found;
  for (size_t m = 0; m < members_.size(); ++m) {
    const Piece& piece = ticket->pieces[m];
    auto buffer = members_[m]->Allocate(bytes);
    if (!buffer.ok()) {
      Fail(buffer.status());
      return {};
    }
    // One that holds nothing gives an empty list: all take part in a gather.
    members_[m]->TopIndicesInto(piece.num_parts == 0 ? nullptr : piece.row(question),
                                piece.num_parts, k, buffer->data());
    found.push_back(*std::move(buffer));
  }
  // Of a failed member nothing comes, and the others would wait for it.
  std::vector<char> gathered(members_.size() * bytes);
  if (!Health().ok()) return {};
  if (absl::Status status = Gather(found, bytes, gathered.data()); !status.ok()) {
    Fail(status);
    return {};
  }
  std::vector<IndexedScore> best;
  for (size_t m = 0; m < members_.size(); ++m) {
    for (IndexedScore scored : ParseTopIndices(gathered.data() + m * bytes, k)) {
      best.push_back({scored.score, ticket->pieces[m].Column(scored.index)});
    }
  }
  const size_t count = std::min(best.size(), static_cast<size_t>(k));
  std::partial_sort(best.begin(), best.begin() + count, best.end(),
                    [](const IndexedScore& a, const IndexedScore& b) {
                      return a.score != b.score ? a.score > b.score : a.index < b.index;
                    });
  best.resize(count);
  return best;
}

}  // namespace

std::unique_ptr<Backend> MakeGroupBackend(std::vector<const Backend*> members,
                                          std::unique_ptr<Collective> collective) {
  MSA_CHECK(!members.empty());
  return std::make_unique<GroupBackend>(std::move(members), std::move(collective));
}

}  // namespace msa::kernels
