#include "kernels/group_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "kernels/forwarding_backend.h"
#include "kernels/group_pass.h"

namespace msa::kernels {
namespace {

// About a millisecond: what lies between two layers of a question. A thread that sleeps wakes up
// later than its GPU needs for a small bank.
constexpr int kSpins = 32 * ThreadPool::kSpins;

// What memory of the group stands for: scores [num_questions, num_parts], or errors
// [num_questions], of a pass.
struct Ticket {
  std::shared_ptr<const GroupPass> pass;
  bool errors = false;

  int64_t row_floats() const { return errors ? 1 : pass->num_parts; }
};

class GroupBackend : public ForwardingBackend {
 public:
  GroupBackend(std::vector<const Backend*> members, std::unique_ptr<Collective> collective)
      : ForwardingBackend(*members.front()),
        members_(std::move(members)),
        collective_(std::move(collective)),
        threads_(static_cast<int>(members_.size()), kSpins) {}

  int num_members() const override { return static_cast<int>(members_.size()); }
  const Backend& member(int index) const override { return *members_[index]; }
  bool memory_is_host() const override { return false; }
  // What it gives is the processor's already.
  Buffer StartFetch(const void*, size_t) const override { return Buffer(); }
  int64_t free_bytes() const override {
    int64_t most = 0;
    for (const Backend* member : members_) most = std::max(most, member->free_bytes());
    return most;
  }
  int64_t host_tier_bytes() const override {
    int64_t sum = 0;
    for (const Backend* member : members_) sum += member->host_tier_bytes();
    return sum;
  }
  absl::Status Health() const override {
    {
      absl::MutexLock lock(&mutex_);
      MSA_RETURN_IF_ERROR(error_);
    }
    for (const Backend* member : members_) MSA_RETURN_IF_ERROR(member->Health());
    return collective_ == nullptr ? absl::OkStatus() : collective_->Health();
  }
  absl::Status StatusOf(const float* scores) const override {
    MSA_RETURN_IF_ERROR(Health());
    int64_t row = 0;
    const Ticket ticket = Find(scores, &row);
    return ticket.pass == nullptr ? absl::OkStatus() : ticket.pass->status(row);
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose) const override;
  void Copy(void* to, const void* from, size_t bytes) const override;
  void ScoreParts(const ScoreArgs& args) const override {
    ScoreBank({args.shape, {&args.segment, 1}, args.queries, args.query_begin, args.scores});
  }
  bool ScoreBank(const ScoreBankArgs& args) const override;
  void ScoreListed(const ScoreListedArgs& args) const override;
  void MeanOfScores(absl::Span<const float* const> scores, int64_t n, float* mean) const override;
  std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const override;
  void TopIndicesInto(const float* scores, int64_t n, int k, void* out) const override {
    Backend::TopIndicesInto(scores, n, k, out);
  }
  BestListed ListBest(const ListBestArgs& args) const override;
  void ListBestInto(const ListBestArgs& args, void* out) const override {
    Backend::ListBestInto(args, out);
  }

 private:
  // body(m) for every member, at once.
  void ForEachMember(absl::FunctionRef<void(int)> body) const {
    threads_.ParallelFor(0, num_members(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) body(static_cast<int>(m));
    });
  }
  // A want of memory is the pass's alone, or a question's, anything else the group's for good.
  void Fail(const absl::Status& status, const GroupPass& pass,
            int64_t question = GroupPass::kAll) const {
    if (absl::IsResourceExhausted(status)) return pass.Lack(status, question);
    absl::MutexLock lock(&mutex_);
    error_.Update(status);
  }
  // The ticket of the row at `data`, and which row; one without a pass when there is none.
  Ticket Find(const void* data, int64_t* row) const;
  void Keep(float* data, Ticket ticket) const;
  void Release(void* data, size_t bytes) const;
  // Room for a member's scores and errors of a pass. False when it has no parts or no memory.
  bool MakeRoom(int m, GroupPass& pass) const;
  bool ScoreOn(int m, const ScoreBankArgs& args, GroupPass& pass) const;
  void CopyScores(const GroupPass& pass, int64_t question, float* to) const;
  float MaxError(const GroupPass& pass, int64_t question) const;
  // What every member left of a question in a buffer of its own, one after the other; empty when
  // that cannot be had (StatusOf).
  std::vector<char> GatherAll(const GroupPass& pass, int64_t question,
                              const std::vector<absl::StatusOr<Buffer>>& found, size_t bytes) const;

  const std::vector<const Backend*> members_;
  const std::unique_ptr<Collective> collective_;
  mutable ThreadPool threads_;
  mutable absl::Mutex mutex_;
  mutable std::map<const float*, Ticket> tickets_ ABSL_GUARDED_BY(mutex_);  // by their memory
  mutable absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<Buffer> GroupBackend::Allocate(size_t bytes, Purpose purpose) const {
  // Pages that nobody writes take no memory: a ticket's cost is its address. Large pages would be
  // taken whole for the queries that lie before it.
  constexpr size_t kAlignment = 64;
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) return absl::ResourceExhaustedError("no address space for scores");
  return Buffer(memory, bytes, [this, bytes](void* data) {
    Release(data, bytes);
    std::free(data);
  });
}

void GroupBackend::Release(void* data, size_t bytes) const {
  const auto* begin = static_cast<const float*>(data);
  std::vector<Ticket> ended;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  auto it = tickets_.lower_bound(begin);
  while (it != tickets_.end() && it->first < begin + bytes / sizeof(float)) {
    ended.push_back(std::move(it->second));
    it = tickets_.erase(it);
  }
}

Ticket GroupBackend::Find(const void* data, int64_t* row) const {
  const auto* floats = static_cast<const float*>(data);
  absl::MutexLock lock(&mutex_);
  auto it = tickets_.upper_bound(floats);
  if (it == tickets_.begin()) return {};
  --it;
  const Ticket& ticket = it->second;
  const int64_t at = floats - it->first;
  if (at >= ticket.pass->num_questions * ticket.row_floats()) return {};
  MSA_CHECK(at % ticket.row_floats() == 0);
  *row = at / ticket.row_floats();
  return ticket;
}

void GroupBackend::Keep(float* data, Ticket ticket) const {
  absl::MutexLock lock(&mutex_);
  std::swap(tickets_[data], ticket);
}

bool GroupBackend::MakeRoom(int m, GroupPass& pass) const {
  GroupPiece& piece = pass.pieces[m];
  if (piece.num_parts == 0) return false;
  const size_t bytes = pass.num_questions * (piece.num_parts + 1) * sizeof(float);
  auto memory = members_[m]->Allocate(bytes);
  // Where sessions have filled a device its part is in the processor's memory.
  if (!memory.ok()) memory = members_[m]->Allocate(bytes, Purpose::kResident);
  if (memory.ok()) {
    piece.memory = *std::move(memory);
  } else {
    Fail(memory.status(), pass);
    piece = GroupPiece();
  }
  return memory.ok();
}

bool GroupBackend::ScoreOn(int m, const ScoreBankArgs& args, GroupPass& pass) const {
  GroupPiece& piece = pass.pieces[m];
  const std::vector<KeySegment> segments = SegmentsOf(m, args.segments, &piece);
  if (!MakeRoom(m, pass)) return false;
  ScoreBankArgs of_member = args;
  of_member.segments = segments;
  of_member.scores = piece.row(0);
  if (args.errors != nullptr) of_member.errors = piece.row(pass.num_questions);
  return members_[m]->ScoreBank(of_member);
}

bool GroupBackend::ScoreBank(const ScoreBankArgs& args) const {
  auto pass = std::make_shared<GroupPass>();
  pass->num_questions = static_cast<int64_t>(args.query_begin.size()) - 1;
  for (const KeySegment& segment : args.segments) pass->num_parts += segment.num_parts();
  pass->pieces.resize(members_.size());
  std::atomic<bool> rounded = args.mode == ScanMode::kCoarse;
  if (pass->num_parts > 0) {
    ForEachMember([&](int m) {
      if (ScoreOn(m, args, *pass)) rounded.store(true, std::memory_order_relaxed);
    });
    Keep(args.scores, {pass});
  }
  if (args.errors != nullptr) Keep(args.errors, {std::move(pass), /*errors=*/true});
  return rounded;
}

void GroupBackend::ScoreListed(const ScoreListedArgs& args) const {
  ForEachMember([&](int m) {
    GroupPiece piece;
    const std::vector<KeySegment> segments = SegmentsOf(m, args.segments, &piece);
    std::vector<int32_t> parts;
    std::vector<size_t> places;
    for (size_t i = 0; i < args.parts.size(); ++i) {
      const int64_t part = piece.PartOf(args.parts[i]);
      if (part < 0) continue;
      parts.push_back(static_cast<int32_t>(part));
      places.push_back(i);
    }
    if (parts.empty()) return;
    std::vector<float> scores(parts.size());
    ScoreListedArgs of_member = args;
    of_member.segments = segments;
    of_member.parts = parts;
    of_member.scores = scores.data();
    members_[m]->ScoreListed(of_member);
    for (size_t i = 0; i < places.size(); ++i) args.scores[places[i]] = scores[i];
  });
}

void GroupBackend::MeanOfScores(absl::Span<const float* const> scores, int64_t n,
                                float* mean) const {
  if (n == 0) return;  // such a row has no memory, and another's ticket may be where it would be
  std::vector<std::pair<Ticket, int64_t>> rows;
  for (const float* layer : scores) {
    int64_t row = 0;
    Ticket ticket = Find(layer, &row);
    // Of the processor's memory: so are all.
    if (ticket.pass == nullptr) return Backend::MeanOfScores(scores, n, mean);
    MSA_CHECK(!ticket.errors && ticket.pass->num_parts == n);
    rows.emplace_back(std::move(ticket), row);
  }
  auto pass = std::make_shared<GroupPass>();
  pass->num_questions = 1;
  pass->num_parts = n;
  // Where one layer's scores are lacking there is no mean.
  for (const auto& [ticket, row] : rows) pass->Lack(ticket.pass->status());
  pass->pieces.resize(members_.size());
  if (pass->status().ok()) {
    ForEachMember([&](int m) {
      const GroupPiece& of_layer = rows.front().first.pass->pieces[m];
      GroupPiece& piece = pass->pieces[m];
      piece.runs = of_layer.runs;
      piece.num_parts = of_layer.num_parts;
      if (!MakeRoom(m, *pass)) return;
      std::vector<const float*> layers;
      for (const auto& [ticket, row] : rows) layers.push_back(ticket.pass->pieces[m].row(row));
      members_[m]->MeanOfScores(layers, piece.num_parts, piece.row(0));
    });
  }
  Keep(mean, {std::move(pass)});
}

void GroupBackend::CopyScores(const GroupPass& pass, int64_t question, float* to) const {
  ForEachMember([&](int m) {
    const float* scores = pass.pieces[m].row(question);
    for (const ColumnRun& run : pass.pieces[m].runs) {
      members_[m]->Copy(to + run.column, scores, run.parts * sizeof(float));
      scores += run.parts;
    }
  });
}

float GroupBackend::MaxError(const GroupPass& pass, int64_t question) const {
  float largest = 0;
  // One after the other: the passes run at the same time, and a thread wakes up later than a few
  // bytes come.
  for (size_t m = 0; m < members_.size(); ++m) {
    const GroupPiece& piece = pass.pieces[m];
    if (piece.num_parts == 0) continue;
    float error = 0;
    members_[m]->Copy(&error, piece.row(pass.num_questions) + question, sizeof(float));
    if (std::isnan(error)) return error;
    largest = std::max(largest, error);
  }
  return largest;
}

void GroupBackend::Copy(void* to, const void* from, size_t bytes) const {
  int64_t row = 0;
  const Ticket ticket = bytes == 0 ? Ticket() : Find(from, &row);
  if (ticket.pass == nullptr) return Backend::Copy(to, from, bytes);
  const int64_t row_bytes = ticket.row_floats() * static_cast<int64_t>(sizeof(float));
  MSA_CHECK(static_cast<int64_t>(bytes) % row_bytes == 0);
  auto* floats = static_cast<float*>(to);
  for (const int64_t end = row + static_cast<int64_t>(bytes) / row_bytes; row < end; ++row) {
    if (ticket.errors) {
      *floats = MaxError(*ticket.pass, row);
    } else {
      CopyScores(*ticket.pass, row, floats);
    }
    floats += ticket.row_floats();
  }
}

std::vector<char> GroupBackend::GatherAll(const GroupPass& pass, int64_t question,
                                          const std::vector<absl::StatusOr<Buffer>>& found,
                                          size_t bytes) const {
  std::vector<const void*> from;
  for (const auto& buffer : found) {
    if (buffer.ok()) {
      from.push_back(buffer->data());
    } else {
      Fail(buffer.status(), pass, question);
    }
  }
  // Of such a member nothing comes, and the others would wait for it.
  if (from.size() < found.size() || !Health().ok()) return {};
  std::vector<char> gathered(found.size() * bytes);
  if (collective_ == nullptr) {
    for (size_t m = 0; m < from.size(); ++m) {
      members_[m]->Copy(gathered.data() + m * bytes, from[m], bytes);
    }
    return gathered;
  }
  if (absl::Status status = collective_->AllGather(from, bytes, gathered.data()); !status.ok()) {
    Fail(status, pass, question);
    return {};
  }
  return gathered;
}

// The best k of all members' lists, in the order of one backend's.
template <typename Part>
void MergeListed(int k, std::vector<Part>* parts) {
  const size_t count = std::min(parts->size(), static_cast<size_t>(k));
  std::partial_sort(parts->begin(), parts->begin() + count, parts->end(),
                    [](const Part& a, const Part& b) {
                      return a.score != b.score ? a.score > b.score : a.index < b.index;
                    });
  parts->resize(count);
}

std::vector<Backend::IndexedScore> GroupBackend::TopIndices(const float* scores, int64_t n,
                                                            int k) const {
  int64_t question = 0;
  const Ticket ticket = n == 0 ? Ticket() : Find(scores, &question);
  if (ticket.pass == nullptr) return Backend::TopIndices(scores, n, k);
  const GroupPass& pass = *ticket.pass;
  MSA_CHECK(!ticket.errors && n == pass.num_parts);
  if (!pass.status().ok()) return {};
  const size_t bytes = TopIndicesBytes(k);
  std::vector<absl::StatusOr<Buffer>> found;
  for (size_t m = 0; m < members_.size(); ++m) {
    const GroupPiece& piece = pass.pieces[m];
    found.push_back(members_[m]->Allocate(bytes));
    if (!found.back().ok()) continue;
    // One that holds nothing gives an empty list: all take part in a gather.
    members_[m]->TopIndicesInto(piece.num_parts == 0 ? nullptr : piece.row(question),
                                piece.num_parts, k, found.back()->data());
  }
  const std::vector<char> gathered = GatherAll(pass, question, found, bytes);
  std::vector<IndexedScore> best;
  for (size_t m = 0; m < members_.size() && !gathered.empty(); ++m) {
    for (IndexedScore scored : ParseTopIndices(gathered.data() + m * bytes, k)) {
      best.push_back({scored.score, pass.pieces[m].Column(scored.index)});
    }
  }
  MergeListed(k, &best);
  return best;
}

// The best of all are among the best of each: every member scores its own exactly.
BestListed GroupBackend::ListBest(const ListBestArgs& args) const {
  int64_t question = 0;
  int64_t num_parts = 0;
  for (const KeySegment& segment : args.segments) num_parts += segment.num_parts();
  const Ticket ticket = num_parts == 0 ? Ticket() : Find(args.scores, &question);
  if (ticket.pass == nullptr) return Backend::ListBest(args);
  const GroupPass& pass = *ticket.pass;
  MSA_CHECK(!ticket.errors && num_parts == pass.num_parts);
  BestListed best;
  best.error = std::numeric_limits<float>::quiet_NaN();  // until it is known
  if (!pass.status().ok()) return best;
  const size_t bytes = ListBestBytes(args.k);
  std::vector<absl::StatusOr<Buffer>> found(members_.size());
  ForEachMember([&](int m) {
    const GroupPiece& piece = pass.pieces[m];
    found[m] = members_[m]->Allocate(bytes);
    if (!found[m].ok()) return;
    GroupPiece of_segments;
    const std::vector<KeySegment> segments = SegmentsOf(m, args.segments, &of_segments);
    ListBestArgs of_member = args;
    of_member.segments = segments;
    of_member.scores = nullptr;
    of_member.error = nullptr;
    if (piece.num_parts > 0) {
      of_member.scores = piece.row(question);
      if (args.error != nullptr) of_member.error = piece.row(pass.num_questions) + question;
    }
    members_[m]->ListBestInto(of_member, found[m]->data());
  });
  const std::vector<char> gathered = GatherAll(pass, question, found, bytes);
  if (gathered.empty()) return best;
  best.error = 0;
  for (size_t m = 0; m < members_.size(); ++m) {
    const BestListed own = ParseListBest(gathered.data() + m * bytes, args.k);
    for (const ListedPart& part : own.parts) {
      best.parts.push_back({part.score, part.exact, pass.pieces[m].Column(part.index)});
    }
    if (std::isnan(own.error) || own.error > best.error) best.error = own.error;  // NaN stays
  }
  MergeListed(args.k, &best.parts);
  return best;
}

}  // namespace

std::unique_ptr<Backend> MakeGroupBackend(std::vector<const Backend*> members,
                                          std::unique_ptr<Collective> collective) {
  MSA_CHECK(!members.empty());
  return std::make_unique<GroupBackend>(std::move(members), std::move(collective));
}

}  // namespace msa::kernels
