// A shard that is there when documents are chosen and gone, or hangs, when their blocks are
// fetched; and who waits behind the question that it keeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "compute_node/answering.h"
#include "compute_node/node.h"
#include "kernels/forwarding_backend.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "router/router.h"
#include "tests/compute_node/added_documents.h"
#include "tests/compute_node/tiny_model.h"
#include "tests/compute_node/until_unwanted.h"
#include "tests/support/fake_shard.h"

namespace msa::compute_node {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A device that fails when it is asked for room for blocks.
class FailingDevice : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  bool memory_is_host() const override { return false; }
  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    if (purpose == Purpose::kCache) return absl::UnavailableError("GPU 0 failed");
    return ForwardingBackend::Allocate(bytes, purpose);
  }
};

class PartialAnswerTest : public ::testing::Test {
 protected:
  virtual const kernels::Backend& device() const { return *backend_; }

  void SetUp() override {
    NodeOptions options = TinyModel();
    options.prefetch_layers = 1;
    options.max_sessions = 1;
    options.fetch_timeout = absl::Milliseconds(200);
    auto node = Node::Load(options, device());
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    map_.shards = {{"a", "host:1"}, {"b", "host:2"}};
    memory_node::ShardOptions in_memory;
    in_memory.background = false;
    auto alive =
        memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), backend_.get(), in_memory);
    ASSERT_TRUE(alive.ok()) << alive.status();
    alive_ = *std::move(alive);
    const std::vector<rpc::MemoryShard*> shards = {alive_.get(), &dying_};
    router_ =
        std::make_unique<router::Router>(map_, shards, std::vector<rpc::ComputeNode*>{node_.get()});
    node_->Attach(router_.get(), shards, {"a", "b"});
    MakeBankOf(*router_, 6);  // on both shards
    dying_.before = [this](const std::string& method, const rpc::CallContext&) {
      if (method != "FetchBlocks") return absl::OkStatus();
      ++refused_;
      return absl::UnavailableError("shard 'b' (host:2): connection reset");
    };
  }

  absl::StatusOr<rpc::RetrieveReply> Retrieve(bool allow_partial) {
    return router_->Retrieve(ctx_, CoinQuestion(6, allow_partial));
  }

  void ExpectFailsByName() {
    const auto reply = Retrieve(/*allow_partial=*/false);
    EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable) << reply.status();
    EXPECT_THAT(std::string(reply.status().message()), HasSubstr("shard 'b'"));
  }

  void ExpectMissing() {
    const auto reply = Retrieve(/*allow_partial=*/true);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_THAT(reply->missing_shards, ElementsAre("b"));
  }

  // To shards that a test has of its own, with documents on both.
  void Move(testing::FakeShard (&shards)[2]) {
    const std::vector<rpc::MemoryShard*> both = {&shards[0], &shards[1]};
    router_ =
        std::make_unique<router::Router>(map_, both, std::vector<rpc::ComputeNode*>{node_.get()});
    node_->Attach(router_.get(), both, {"a", "b"});
    MakeBankOf(*router_, 6);
  }

  rpc::CallContext ctx_;
  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
  std::unique_ptr<Node> node_;
  std::unique_ptr<memory_node::LocalShard> alive_;
  testing::FakeShard dying_;
  rpc::ShardMap map_;
  std::unique_ptr<router::Router> router_;
  int refused_ = 0;
};

TEST_F(PartialAnswerTest, ANodeWithAnotherShardMapThanItsRouterSaysSo) {
  dying_.before = nullptr;
  node_->Attach(router_.get(), {alive_.get()}, {"a"});
  const absl::Status status = Retrieve(/*allow_partial=*/true).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 2 shards, that of this node 1"));
  EXPECT_TRUE(rpc::IsAboutNode(status));
}

TEST_F(PartialAnswerTest, FailsByNameUnlessPartialAnswersAreAllowed) { ExpectFailsByName(); }

TEST_F(PartialAnswerTest, NamesWhatIsMissingAndAsksItOnce) {
  const auto reply = Retrieve(/*allow_partial=*/true);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->missing_shards, ElementsAre("b"));
  EXPECT_EQ(refused_, 1);
  EXPECT_FALSE(reply->documents.empty());
}

TEST_F(PartialAnswerTest, AShardThatWasRestartedSinceItWasRoutedToIsMissing) {
  dying_.before = [](const std::string& method, const rpc::CallContext&) {
    if (method != "FetchBlocks") return absl::OkStatus();
    return rpc::SnapshotLost(absl::FailedPreconditionError("snapshot 1 is not open: …"));
  };
  ExpectFailsByName();
  ExpectMissing();
}

// A layer waits for its slowest shard, not for one after the other: each of the two here ends only
// once the other was asked.
TEST_F(PartialAnswerTest, ShardsAreAskedForBlocksAtOnce) {
  testing::FakeShard shards[2];
  absl::Notification asked[2];
  std::atomic<int> alone = 0;
  for (const int i : {0, 1}) {
    shards[i].before = [&, i](const std::string& method, const rpc::CallContext&) {
      if (method != "FetchBlocks") return absl::OkStatus();
      if (!asked[i].HasBeenNotified()) asked[i].Notify();
      if (!asked[1 - i].WaitForNotificationWithTimeout(absl::Seconds(10))) ++alone;
      return absl::UnavailableError("gone");
    };
  }
  Move(shards);
  const auto reply = Retrieve(/*allow_partial=*/true);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->missing_shards, ElementsAre("a", "b"));
  EXPECT_EQ(alone, 0);
}

TEST_F(PartialAnswerTest, OfShardsAskedTogetherTheOthersAreNotWaitedForWhenOneFails) {
  testing::FakeShard shards[2];
  absl::Notification asked;
  absl::Status other;
  shards[0].before = [&asked](const std::string& method, const rpc::CallContext&) {
    if (method != "FetchBlocks") return absl::OkStatus();
    asked.WaitForNotification();
    return absl::UnavailableError("gone");
  };
  shards[1].before = [&](const std::string& method, const rpc::CallContext& ctx) {
    if (method != "FetchBlocks") return absl::OkStatus();
    asked.Notify();
    other = UntilUnwanted(ctx);
    return other;
  };
  Move(shards);
  const absl::Status status = Retrieve(/*allow_partial=*/false).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("gone"));
  EXPECT_TRUE(absl::IsCancelled(other)) << other;
}

class FailingDeviceTest : public PartialAnswerTest {
 protected:
  void TearDown() override {  // before the device
    router_.reset();
    node_.reset();
  }
  const kernels::Backend& device() const override { return failing_; }

  FailingDevice failing_{*backend_};
};

TEST_F(FailingDeviceTest, IsNoMissingShard) {
  dying_.before = [](const std::string& method, const rpc::CallContext& ctx) {
    return method == "FetchBlocks" ? UntilUnwanted(ctx) : absl::OkStatus();
  };
  for (const bool allow_partial : {false, true}) {
    const absl::Status status = Retrieve(allow_partial).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("GPU 0 failed"));
  }
}

// The question has ten minutes, the shard has not: others wait for this question's pass.
TEST_F(PartialAnswerTest, AShardThatHangsIsMissing) {
  dying_.before = [](const std::string& method, const rpc::CallContext& ctx) {
    if (method != "FetchBlocks") return absl::OkStatus();
    EXPECT_LE(ctx.deadline, absl::Now() + absl::Milliseconds(200));
    return UntilUnwanted(ctx);
  };
  ctx_.deadline = absl::Now() + absl::Minutes(10);
  ExpectFailsByName();
  ExpectMissing();
}

// Whoever waits looks up from time to time whether the client is there; that costs no turn.
TEST_F(PartialAnswerTest, QuestionsThatWaitHaveTheirTurnsInOrder) {
  absl::Notification fetching, over;
  std::vector<std::string> turns;
  dying_.before = [&](const std::string& method, const rpc::CallContext& ctx) {
    if (method == "OpenSnapshot") turns.push_back(ctx.request_id);
    if (method != "FetchBlocks") return absl::OkStatus();
    if (!fetching.HasBeenNotified()) fetching.Notify();
    over.WaitForNotification();
    return absl::UnavailableError("shard 'b': gone");
  };
  std::thread first([this] { EXPECT_FALSE(Retrieve(/*allow_partial=*/false).ok()); });
  fetching.WaitForNotification();
  absl::Notification waits[2], second_looked_again;
  const auto ask = [&](int i) {
    rpc::CallContext ctx;
    ctx.request_id = std::to_string(i);
    ctx.cancelled = [&, i] {
      if (!waits[i].HasBeenNotified()) waits[i].Notify();
      const bool again = i == 0 && waits[1].HasBeenNotified();
      if (again && !second_looked_again.HasBeenNotified()) second_looked_again.Notify();
      return false;
    };
    rpc::RetrieveRequest request;
    request.question = "And this one?";
    request.bank = "default";
    request.limit = 1;
    (void)node_->Retrieve(ctx, request);
  };
  std::thread second([&] { ask(0); });
  waits[0].WaitForNotification();
  std::thread third([&] { ask(1); });
  waits[1].WaitForNotification();
  second_looked_again.WaitForNotification();
  over.Notify();
  for (std::thread* thread : {&first, &second, &third}) thread->join();
  EXPECT_THAT(turns, ElementsAre("", "0", "1"));
}

TEST_F(PartialAnswerTest, WhoLeavesWhileTheQuestionWaitsIsNotWaitedFor) {
  absl::Notification fetching, over;
  dying_.before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "FetchBlocks") return absl::OkStatus();
    fetching.Notify();
    over.WaitForNotification();
    return absl::UnavailableError("shard 'b': gone");
  };
  std::thread first([this] { EXPECT_FALSE(Retrieve(/*allow_partial=*/false).ok()); });
  fetching.WaitForNotification();
  rpc::RetrieveRequest request;
  request.question = "And this one?";
  request.bank = "default";
  request.limit = 1;
  rpc::CallContext gone;
  gone.deadline = absl::Now() + absl::Seconds(5);
  gone.cancelled = [] { return true; };
  EXPECT_EQ(node_->Retrieve(gone, request).status().code(), absl::StatusCode::kCancelled);
  over.Notify();
  first.join();
}

TEST_F(PartialAnswerTest, TheTimeToTheFirstTokenBeginsBeforeTheWaitForAPlace) {
  rpc::GenerateRequest request;
  request.question = "Where is the coin?";
  request.bank = "default";
  request.max_new_tokens = 4;
  request.allow_partial = true;
  rpc::Timings timings;
  const AnsweringParts parts{node_->transformer(), node_->tokenizer(), node_->prefix(),
                             node_->memory(), node_->steps()};
  const absl::Status status = AnswerQuestion(
      ctx_, parts, request, /*queued=*/absl::Hours(1), [&](const rpc::GenerateEvent& event) {
        if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) timings = done->timings;
        return true;
      });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GE(timings.first_token, absl::ToDoubleMilliseconds(absl::Hours(1)));
  EXPECT_GE(timings.total, timings.first_token);
}

}  // namespace
}  // namespace msa::compute_node
