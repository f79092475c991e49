#include "rpc/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "common/log.h"
#include "tests/support/little_memory.h"

namespace msa::rpc {
namespace {

TEST(WorkerPool, RunsEveryTaskBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(4, 1000);
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(pool.Submit([&ran] { ++ran; }));
  }
  EXPECT_EQ(ran, 1000);
}

TEST(WorkerPool, ATaskHasItsSubmittersRequestId) {
  std::vector<std::string> ids;
  {
    WorkerPool pool(1, 1000);
    const auto note = [&ids] { ids.push_back(CurrentRequestId()); };
    {
      const ScopedRequestId lines("9f");
      ASSERT_TRUE(pool.Submit(note));
    }
    ASSERT_TRUE(pool.Submit(note));
  }
  EXPECT_EQ(ids, (std::vector<std::string>{"9f", ""}));
}

TEST(WorkerPool, RunsAsManyAtOnceAsItHasThreads) {
  WorkerPool pool(3, 0);
  auto* barrier = new absl::Barrier(4);  // Block() returns only when all four have come
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(pool.Submit([barrier] {
      if (barrier->Block()) delete barrier;
    }));
  }
  if (barrier->Block()) delete barrier;
}

TEST(WorkerPool, RunsEachAtOnceOnItsThreadsAndTheCallers) {
  WorkerPool pool(2, 0);
  auto* barrier = new absl::Barrier(3);
  std::atomic<int> ran[3] = {};
  pool.RunEach(3, [&](size_t i) {
    ++ran[i];
    if (barrier->Block()) delete barrier;
  });
  for (const auto& once : ran) EXPECT_EQ(once, 1);
  pool.RunEach(0, [](size_t) { ADD_FAILURE(); });
}

TEST(WorkerPool, RunsOnTheCallersThreadWhatNoThreadIsFreeFor) {
  WorkerPool pool(1, 0);
  absl::Notification busy, go;
  ASSERT_TRUE(pool.Submit([&] {
    busy.Notify();
    go.WaitForNotification();
  }));
  busy.WaitForNotification();
  std::atomic<int> here = 0;
  const auto caller = std::this_thread::get_id();
  pool.RunEach(4, [&](size_t) { here += std::this_thread::get_id() == caller; });
  EXPECT_EQ(here, 4);
  go.Notify();
}

TEST(WorkerPool, RefusesWhatDoesNotFit) {
  absl::Notification go;
  absl::BlockingCounter running(2);
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(2, 1);
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(pool.Submit([&] {
        running.DecrementCount();
        go.WaitForNotification();
        ++ran;
      }));
    }
    running.Wait();
    EXPECT_FALSE(pool.SubmitNow([&ran] { ++ran; }));
    EXPECT_TRUE(pool.Submit([&ran] { ++ran; }));
    EXPECT_FALSE(pool.Submit([&ran] { ++ran; }));
    go.Notify();
  }
  EXPECT_EQ(ran, 3);
}

TEST(WorkerPool, BoundsTheBytesOfWhatWaits) {
  std::atomic<int> ran = 0;
  const auto run = [&ran] { ++ran; };
  {
    WorkerPool pool(1, 10, /*queue_bytes=*/100);
    for (int round = 0; round < 2; ++round) {
      absl::Notification running, go;
      ASSERT_TRUE(pool.Submit(
          [&] {
            running.Notify();
            go.WaitForNotification();
          },
          round == 0 ? 1000 : 1));  // of what runs at once nothing is counted
      running.WaitForNotification();
      EXPECT_TRUE(pool.Submit(run, 60));
      EXPECT_FALSE(pool.Submit(run, 41));
      EXPECT_FALSE(pool.Submit(run, SIZE_MAX));
      EXPECT_TRUE(pool.Submit(run, 40));
      EXPECT_FALSE(pool.Submit(run, 1));
      absl::Notification over;
      EXPECT_TRUE(pool.Submit([&over] { over.Notify(); }));
      go.Notify();
      over.WaitForNotification();
    }
  }
  EXPECT_EQ(ran, 4);
}

void DoWithout() {
  absl::Notification go;
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(3, 1);
    {
      testing::LittleMemory little;
      EXPECT_FALSE(pool.Submit([&ran] { ++ran; }));
    }
    ASSERT_TRUE(pool.Submit([&] { go.WaitForNotification(); }));
    {
      testing::LittleMemory little;
      EXPECT_FALSE(pool.SubmitNow([&ran] { ++ran; }));
      EXPECT_TRUE(pool.Submit([&ran] { ++ran; }));  // waits for the one thread
      EXPECT_FALSE(pool.Submit([&ran] { ++ran; }));
    }
    go.Notify();
  }
  EXPECT_EQ(ran, 1);
}

// In a process of its own: the C library keeps the stacks of threads that have ended.
TEST(WorkerPool, AThreadThatCannotBeStartedIsDoneWithout) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto child = [] {
    DoWithout();
    std::exit(::testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace msa::rpc
