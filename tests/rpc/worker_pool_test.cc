#include "rpc/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"

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

}  // namespace
}  // namespace msa::rpc
