#include "compute_node/block_fetcher.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/compute_node/until_unwanted.h"

namespace msa::compute_node {
namespace {

using Key = BlockFetcher::Key;

Key Of(int64_t reference, int32_t layer, int32_t shard = 0) {
  return {.bank_uid = 7, .shard = shard, .shard_start = 1, .reference = reference, .layer = layer};
}
BlockFetcher::Block NewBlock() { return std::make_shared<const ContentBlock>(); }

class BlockFetcherTest : public ::testing::Test {
 protected:
  rpc::WorkerPool pool_{4, /*queue=*/0};
  BlockFetcher fetcher_{pool_};
  rpc::CallContext ctx_;
};

TEST_F(BlockFetcherTest, ALayerIsThereWhileLaterOnesAreOnTheirWay) {
  const std::vector<Key> first = {Of(1, 2), Of(2, 2)}, later = {Of(1, 3), Of(2, 3)};
  absl::Notification go_on;
  fetcher_.Start(ctx_, 0, {Of(1, 2), Of(2, 2), Of(1, 3), Of(2, 3)},
                 [&](const rpc::CallContext&, const BlockFetcher::Sink& sink) {
                   for (const Key& key : first) EXPECT_TRUE(sink(key, NewBlock()).ok());
                   go_on.WaitForNotification();
                   for (const Key& key : later) EXPECT_TRUE(sink(key, NewBlock()).ok());
                   return absl::OkStatus();
                 });
  EXPECT_TRUE(fetcher_.Await(first, true)->empty());
  EXPECT_NE(fetcher_.Find(first[1]), nullptr);
  EXPECT_EQ(fetcher_.Find(later[0]), nullptr);
  EXPECT_TRUE(fetcher_.Has(later[0]));
  EXPECT_FALSE(fetcher_.Has(Of(3, 2)));
  go_on.Notify();
  EXPECT_TRUE(fetcher_.Await(later, true)->empty());
  EXPECT_NE(fetcher_.Find(later[0]), nullptr);
  EXPECT_NE(fetcher_.Find(later[1]), nullptr);
}

// As earlier releases of memory nodes send: what is wanted is waited for in any order. Often, for
// who does not wait may still come late.
TEST_F(BlockFetcherTest, ALayerIsNotOverBecauseABlockOfTheNextHasCome) {
  for (int i = 0; i < 100; ++i) {
    BlockFetcher fetcher(pool_);
    absl::Notification waits, go_on;
    fetcher.Start(ctx_, 0, {Of(1, 2), Of(1, 3), Of(2, 2), Of(2, 3)},
                  [&](const rpc::CallContext&, const BlockFetcher::Sink& sink) {
                    for (const Key& key : {Of(1, 2), Of(1, 3)}) {
                      EXPECT_TRUE(sink(key, NewBlock()).ok());
                    }
                    go_on.WaitForNotification();
                    for (const Key& key : {Of(2, 2), Of(2, 3)}) {
                      EXPECT_TRUE(sink(key, NewBlock()).ok());
                    }
                    return absl::OkStatus();
                  });
    std::thread releases([&] {
      waits.WaitForNotification();
      go_on.Notify();
    });
    waits.Notify();
    EXPECT_TRUE(fetcher.Await({Of(1, 2), Of(2, 2)}, true)->empty());
    EXPECT_NE(fetcher.Find(Of(2, 2)), nullptr);
    releases.join();
  }
}

TEST_F(BlockFetcherTest, WhatACallLeavesOutIsGoneWhenItEnds) {
  fetcher_.Start(ctx_, 0, {Of(1, 2), Of(2, 2)},
                 [&](const rpc::CallContext&, const BlockFetcher::Sink& sink) {
                   EXPECT_TRUE(sink(Of(2, 2), NewBlock()).ok());
                   return absl::OkStatus();
                 });
  EXPECT_TRUE(fetcher_.Await({Of(1, 2), Of(2, 2)}, true)->empty());
  EXPECT_EQ(fetcher_.Find(Of(1, 2)), nullptr);
  EXPECT_NE(fetcher_.Find(Of(2, 2)), nullptr);
}

TEST_F(BlockFetcherTest, AnErrorIsOfThoseWhoStillWantSomething) {
  fetcher_.Start(ctx_, 5, {Of(1, 2, 5), Of(1, 3, 5)},
                 [&](const rpc::CallContext&, const BlockFetcher::Sink& sink) {
                   EXPECT_TRUE(sink(Of(1, 2, 5), NewBlock()).ok());
                   return absl::UnavailableError("gone");
                 });
  fetcher_.Put(Of(9, 2), NewBlock());
  EXPECT_TRUE(fetcher_.Await({Of(1, 2, 5), Of(9, 2)}, false)->empty());
  for (int i = 0; i < 2; ++i) {  // whenever it is asked for
    const auto errors = *fetcher_.Await({Of(1, 3, 5), Of(9, 2)}, false);
    ASSERT_EQ(errors.size(), 1u);
    EXPECT_EQ(errors.begin()->first, 5);
    EXPECT_TRUE(absl::IsUnavailable(errors.begin()->second));
  }
}

TEST_F(BlockFetcherTest, AllOrNothingTheOthersAreNotWaitedFor) {
  absl::Notification asked;
  absl::Status other;
  fetcher_.Start(ctx_, 0, {Of(1, 2)}, [&](const rpc::CallContext& ctx, const auto&) {
    asked.Notify();
    other = UntilUnwanted(ctx);
    return other;
  });
  fetcher_.Start(ctx_, 1, {Of(2, 2, 1)}, [&](const rpc::CallContext&, const auto&) {
    asked.WaitForNotification();
    return absl::DataLossError("damaged");
  });
  const auto errors = *fetcher_.Await({Of(1, 2), Of(2, 2, 1)}, true);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(errors.at(1)));
  fetcher_.Stop();
  EXPECT_TRUE(absl::IsCancelled(other)) << other;
}

TEST_F(BlockFetcherTest, WhatThisNodeCannotKeepIsNoErrorOfTheShard) {
  fetcher_.Start(ctx_, 0, {Of(1, 2), Of(1, 3)}, [&](const rpc::CallContext&, const auto& sink) {
    EXPECT_TRUE(sink(Of(1, 2), NewBlock()).ok());
    return sink(Of(1, 3), absl::UnavailableError("GPU 0 failed"));
  });
  fetcher_.Start(ctx_, 1, {Of(2, 3, 1)}, [&](const rpc::CallContext&, const auto&) {
    return absl::UnavailableError("gone");
  });
  EXPECT_TRUE(fetcher_.Await({Of(1, 2)}, false)->empty());  // which does not need it
  EXPECT_EQ(fetcher_.Await({Of(2, 3, 1)}, false)->size(), 1u);
  const absl::Status status = fetcher_.Await({Of(2, 3, 1), Of(1, 3)}, false).status();
  EXPECT_EQ(status.message(), "GPU 0 failed") << status;
}

TEST_F(BlockFetcherTest, OfAShardsErrorsTheOneThatIsNotAboutReachingIt) {
  const auto fails = [&](int64_t reference, absl::Status status) {
    fetcher_.Start(ctx_, 0, {Of(reference, 2)},
                   [status](const rpc::CallContext&, const auto&) { return status; });
  };
  fails(1, absl::UnavailableError("gone"));
  fails(2, absl::DataLossError("damaged"));
  fails(3, absl::UnavailableError("gone"));
  const auto errors = *fetcher_.Await({Of(1, 2), Of(2, 2), Of(3, 2)}, false);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(errors.at(0)));
}

TEST_F(BlockFetcherTest, WhatHasComeStaysWhenItIsAskedForAgain) {
  fetcher_.Put(Of(1, 3), NewBlock());
  fetcher_.Start(ctx_, 0, {Of(1, 2), Of(1, 3)}, [](const rpc::CallContext&, const auto&) {
    return absl::UnavailableError("gone");
  });
  EXPECT_TRUE(fetcher_.Await({Of(1, 3)}, true)->empty());
  EXPECT_NE(fetcher_.Find(Of(1, 3)), nullptr);
  EXPECT_EQ(fetcher_.Await({Of(1, 2)}, true)->size(), 1u);
}

TEST_F(BlockFetcherTest, WhoEndsEndsItsCalls) {
  absl::Status ended;
  {
    BlockFetcher fetcher(pool_);
    absl::Notification asked;
    fetcher.Start(ctx_, 0, {Of(1, 2)}, [&](const rpc::CallContext& ctx, const auto&) {
      asked.Notify();
      return ended = UntilUnwanted(ctx);
    });
    asked.WaitForNotification();
  }
  EXPECT_TRUE(absl::IsCancelled(ended)) << ended;
}

TEST_F(BlockFetcherTest, WhereNoThreadIsFreeACallRunsHere) {
  rpc::WorkerPool none(0, /*queue=*/0);
  BlockFetcher fetcher(none);
  std::thread::id on;
  fetcher.Start(ctx_, 0, {Of(1, 2)}, [&](const rpc::CallContext&, const auto& sink) {
    on = std::this_thread::get_id();
    EXPECT_TRUE(sink(Of(1, 2), NewBlock()).ok());
    return absl::OkStatus();
  });
  EXPECT_EQ(on, std::this_thread::get_id());
  EXPECT_NE(fetcher.Find(Of(1, 2)), nullptr);
}

TEST_F(BlockFetcherTest, TheCallersCancellationReachesCalls) {
  std::atomic<bool> gone = false;
  ctx_.cancelled = [&] { return gone.load(); };
  fetcher_.Start(ctx_, 3, {Of(1, 2)},
                 [](const rpc::CallContext& ctx, const auto&) { return UntilUnwanted(ctx); });
  gone = true;
  const auto errors = *fetcher_.Await({Of(1, 2)}, false);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_TRUE(absl::IsCancelled(errors.at(3)));
}

}  // namespace
}  // namespace msa::compute_node
