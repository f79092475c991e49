#include "compute_node/batcher.h"

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "common/log.h"
#include "gtest/gtest.h"

namespace msa::compute_node {
namespace {

struct Item {
  size_t cost = 1;
  size_t batch_size = 0;  // out
};

void Record(absl::Span<Item* const> items) {
  for (Item* item : items) item->batch_size = items.size();
}

size_t Cost(const Item& item) { return item.cost; }

TEST(BatcherTest, RunsALoneItemAlone) {
  Batcher<Item> batcher(8, Cost, Record);
  Item item;
  batcher.Run(&item);
  EXPECT_EQ(item.batch_size, 1u);
}

TEST(BatcherTest, ABatchHasNotItsLeadersRequestId) {
  Batcher<Item> batcher(8, Cost,
                        [](absl::Span<Item* const>) { EXPECT_EQ(CurrentRequestId(), ""); });
  const ScopedRequestId lines("9f");
  Item item;
  batcher.Run(&item);
  EXPECT_EQ(CurrentRequestId(), "9f");
}

TEST(BatcherTest, JoinsWhatWaitsWhileALeaderWorks) {
  absl::Notification started, release;
  std::atomic<int> calls = 0;
  Batcher<Item> batcher(8, Cost, [&](absl::Span<Item* const> items) {
    if (calls++ == 0) {
      started.Notify();
      release.WaitForNotification();
    }
    Record(items);
  });
  Item first, second, third;
  std::thread leader([&] { batcher.Run(&first); });
  started.WaitForNotification();
  // Two regulars make the next leader wait for both, so that no clock decides.
  Batcher<Item>::Regular a(batcher), b(batcher);
  std::thread one([&] { batcher.Run(&second); });
  std::thread two([&] { batcher.Run(&third); });
  release.Notify();
  leader.join();
  one.join();
  two.join();
  EXPECT_EQ(first.batch_size, 1u);
  EXPECT_GE(calls, 2);
  EXPECT_GE(second.batch_size, 1u);
  EXPECT_GE(third.batch_size, 1u);
}

// Every item runs once, whoever leads, in order of arrival.
TEST(BatcherTest, EachOfManyCallersIsServedOncePerCall) {
  std::atomic<int> leaders = 0;
  std::atomic<int64_t> served = 0;
  Batcher<Item> batcher(3, Cost, [&](absl::Span<Item* const> items) {
    EXPECT_EQ(leaders++, 0);  // one at a time
    served += static_cast<int64_t>(items.size());
    Record(items);
    --leaders;
  });
  constexpr int kThreads = 8, kCalls = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kCalls; ++i) {
        Item item;
        batcher.Run(&item);
        EXPECT_GE(item.batch_size, 1u);
        EXPECT_LE(item.batch_size, 3u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, kThreads * kCalls);
}

TEST(BatcherTest, NoBatchCostsMoreThanTheLimitButOneItemMay) {
  std::atomic<size_t> largest = 0;
  Batcher<Item> batcher(4, Cost, [&](absl::Span<Item* const> items) {
    size_t cost = 0;
    for (Item* item : items) cost += item->cost;
    if (items.size() > 1 && cost > largest) largest = cost;
    Record(items);
  });
  std::vector<std::thread> threads;
  std::vector<Item> items(24);
  for (size_t i = 0; i < items.size(); ++i) items[i].cost = 1 + i % 6;
  for (Item& item : items) threads.emplace_back([&batcher, &item] { batcher.Run(&item); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(largest, 4u);
  for (const Item& item : items) {
    EXPECT_GE(item.batch_size, 1u);
    if (item.cost > 4) {
      EXPECT_EQ(item.batch_size, 1u);
    }
  }
}

}  // namespace
}  // namespace msa::compute_node
