// Questions that wait for a pass over the keys.
#include "memory_node/scan_sharing.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/log.h"
#include "common/strings.h"
#include "gtest/gtest.h"
#include "memory_node/selection.h"
#include "tests/memory_node/index_parts.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

// Holds every pass until released.
class GatedBackend : public testing::TinyBackend {
 public:
  void ScoreParts(const kernels::ScoreArgs& args) const override {
    EXPECT_EQ(CurrentRequestId(), "") << "a pass is of all whom it answers";
    if (!entered.HasBeenNotified()) entered.Notify();
    release.WaitForNotification();
    testing::TinyBackend::ScoreParts(args);
  }
  mutable absl::Notification entered;
  absl::Notification release;
};

TEST(ScanSharing, QuestionsThatWaitShareAPassAndGetTheirOwnAnswers) {
  const auto bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  GatedBackend backend;
  RoutingIndex index(backend, KeyShapeOf(bank), {.min_segment_chunks = 16});
  std::vector<rpc::EncodedDocument> documents;
  for (int64_t i = 0; i < 20; ++i) {
    documents.push_back(testing::MakeDocument(bank, {.id = "d", .first_reference = i}));
    ASSERT_TRUE(index.Append({PartOf(documents.back().parts[0])}).ok());
    index.Publish({i}, {});
  }
  ScanSharer sharer(&backend, {});
  constexpr int kQuestions = 6;
  std::atomic<int> begun{0};
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> queries;
  for (int i = 0; i <= kQuestions; ++i) queries.push_back(testing::MakeQueries(bank, 1 + i, i));
  const auto ask = [&](int i) {
    const ScopedRequestId lines(StrCat("call-", i));
    ++begun;
    auto scores = sharer.Score({}, {&index, &bank.routing, i % 2, &queries[i]});
    ASSERT_TRUE(scores.ok());
    SelectionCounts counts;
    const auto selected = SelectBest(backend, &*scores, index.sequence(), 20, counts);
    ASSERT_TRUE(selected.ok());
    for (const auto& part : *selected) {
      EXPECT_EQ(
          part.scored.score,
          testing::OracleScore(bank, documents[part.scored.reference].parts[0], i % 2, queries[i]));
    }
  };
  threads.emplace_back(ask, 0);
  backend.entered.WaitForNotification();
  for (int i = 1; i <= kQuestions; ++i) threads.emplace_back(ask, i);
  while (sharer.waiting() < kQuestions) std::this_thread::yield();
  backend.release.Notify();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sharer.questions(), kQuestions + 1);
  EXPECT_EQ(sharer.passes(), 3);  // the first alone, then one a layer
}

TEST(ScanSharing, WaitingIsLimitedAndEndsAtTheDeadline) {
  const auto bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  GatedBackend backend;
  RoutingIndex index(backend, KeyShapeOf(bank), {});
  const auto document = testing::MakeDocument(bank, {.id = "d"});
  ASSERT_TRUE(index.Append({PartOf(document.parts[0])}).ok());
  ScanSharer sharer(&backend, {.max_waiting = 1});
  const auto queries = testing::MakeQueries(bank, 1, 1);
  std::thread first([&] {
    EXPECT_TRUE(sharer.Score({}, {&index, &bank.routing, 0, &queries}).ok());
  });
  backend.entered.WaitForNotification();
  rpc::CallContext late;
  late.deadline = absl::Now() + absl::Milliseconds(20);
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(sharer.Score(late, {&index, &bank.routing, 0, &queries}).status()));
  rpc::CallContext gone;
  gone.cancelled = [] { return true; };
  EXPECT_TRUE(absl::IsCancelled(sharer.Score(gone, {&index, &bank.routing, 0, &queries}).status()));
  std::thread second([&] {
    EXPECT_TRUE(sharer.Score({}, {&index, &bank.routing, 0, &queries}).ok());
  });
  while (sharer.waiting() < 1) std::this_thread::yield();
  EXPECT_TRUE(
      absl::IsResourceExhausted(sharer.Score({}, {&index, &bank.routing, 0, &queries}).status()));
  backend.release.Notify();
  first.join();
  second.join();
}

}  // namespace
}  // namespace msa::memory_node
