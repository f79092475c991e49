// How many documents are encoded at once.
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "router/ingest.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

// Whether there is place at once.
bool TakesNow(EncodeBudget& budget, size_t bytes) {
  rpc::CallContext now;
  now.deadline = absl::Now();
  return budget.Take(now, bytes).ok();
}

// Whether there is place for a document of so many bytes while `held` are encoded.
bool HasPlace(const std::vector<size_t>& held, size_t bytes) {
  EncodeBudget budget(/*always=*/2, /*most=*/5, /*bytes=*/1000);
  for (size_t each : held) EXPECT_TRUE(budget.Take({}, each).ok());
  return TakesNow(budget, bytes);
}

TEST(EncodeBudget, EncodesMoreAtOnceWhileTheyAreShort) {
  EXPECT_TRUE(HasPlace({5000}, 5000));
  EXPECT_FALSE(HasPlace({5000, 5000}, 1));
  EXPECT_TRUE(HasPlace({300, 300, 300}, 100));
  EXPECT_FALSE(HasPlace({300, 300, 300}, 101));
  EXPECT_TRUE(HasPlace({1, 1, 1, 1}, 1));
  EXPECT_FALSE(HasPlace({1, 1, 1, 1, 1}, 1));
}

TEST(EncodeBudget, ALongDocumentIsNotPassedByShortOnes) {
  EncodeBudget budget(/*always=*/2, /*most=*/5, /*bytes=*/1000);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(budget.Take({}, 10).ok());
  std::thread stream([&] { EXPECT_TRUE(budget.Take({}, 5000).ok()); });
  const auto short_one = [&] { return TakesNow(budget, 10); };
  while (short_one()) budget.GiveBack(10);  // until the long one waits
  budget.GiveBack(10);
  EXPECT_FALSE(short_one());
  budget.GiveBack(10);
  stream.join();
  EXPECT_FALSE(short_one()) << "the long one takes the bytes";
  budget.GiveBack(5000);
  EXPECT_TRUE(short_one());
}

TEST(EncodeBudget, WhoLeavesWhileADocumentWaitsForItsPlaceIsNotWaitedFor) {
  EncodeBudget budget(/*always=*/1, /*most=*/1, /*bytes=*/1000);
  ASSERT_TRUE(budget.Take({}, 1).ok());
  rpc::CallContext gone;
  gone.cancelled = [] { return true; };
  EXPECT_EQ(budget.Take(gone, 1).code(), absl::StatusCode::kCancelled);
  rpc::CallContext late;
  late.deadline = absl::Now();
  EXPECT_EQ(budget.Take(late, 1).code(), absl::StatusCode::kDeadlineExceeded);
  budget.GiveBack(1);
  EXPECT_TRUE(budget.Take({}, 1).ok());
}

// All of a stream's short documents are in work together.
TEST(EncodeBudget, OfSeveralNodesIsFilled) {
  FakeCluster cluster(1, 1, RouterOptions::ForNodes(/*compute_nodes=*/3, /*at_once=*/4));
  std::latch all_here(12);
  std::atomic<int> seen = 0;
  cluster.nodes[0]->before = [&](const std::string& method, const rpc::CallContext&) {
    if (method == "EncodeDocument" && seen++ < 12) all_here.arrive_and_wait();
    return absl::OkStatus();
  };
  EXPECT_EQ(cluster.Add(SomeDocuments(40)).size(), 40u);
}

}  // namespace
}  // namespace msa::router
