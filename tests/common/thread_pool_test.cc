#include "common/thread_pool.h"

#include <atomic>
#include <set>
#include <utility>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace msa {
namespace {

TEST(ThreadPoolTest, EveryIndexIsVisitedExactlyOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t n : {0, 1, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> visits(n);
        pool.ParallelFor(0, n, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LE(end - begin, grain);
          for (int64_t i = begin; i < end; ++i) visits[i].fetch_add(1);
        });
        for (const auto& count : visits) EXPECT_EQ(count.load(), 1);
      }
    }
  }
}

std::set<std::pair<int64_t, int64_t>> Ranges(int threads) {
  ThreadPool pool(threads);
  absl::Mutex mutex;
  std::set<std::pair<int64_t, int64_t>> ranges;
  pool.ParallelFor(3, 50, 7, [&](int64_t begin, int64_t end) {
    absl::MutexLock lock(&mutex);
    ranges.emplace(begin, end);
  });
  return ranges;
}

TEST(ThreadPoolTest, RangesDoNotDependOnTheNumberOfThreads) {
  EXPECT_EQ(Ranges(1), Ranges(4));
  EXPECT_EQ(*Ranges(1).begin(), std::make_pair(int64_t{3}, int64_t{10}));
}

TEST(ThreadPoolTest, TwoThreadsReallyRunAtOnce) {
  ThreadPool pool(2);
  absl::Notification arrived[2];
  pool.ParallelFor(0, 2, 1, [&](int64_t begin, int64_t) {
    arrived[begin].Notify();
    arrived[1 - begin].WaitForNotification();  // hangs unless the other range runs meanwhile
  });
}

TEST(ThreadPoolTest, SeveralCallersAndNestedLoopsFinish) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        pool.ParallelFor(0, 8, 1, [&](int64_t begin, int64_t) {
          pool.ParallelFor(0, 4, 1, [&](int64_t inner, int64_t) { sum.fetch_add(begin + inner); });
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  // Σ over 8 × 4 pairs of (i + j) = 4·28 + 8·6 = 160, times 800 loops.
  EXPECT_EQ(sum.load(), 160 * 800);
}

}  // namespace
}  // namespace msa
