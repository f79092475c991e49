// Blocks of several layers asked for at once: answers are those of one layer at a time, and what
// befalls later layers is said where they need it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "compute_node/answering.h"
#include "compute_node/node.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "router/router.h"
#include "tests/compute_node/added_documents.h"
#include "tests/compute_node/breaking_shard.h"
#include "tests/compute_node/tiny_model.h"
#include "tests/compute_node/until_unwanted.h"

namespace msa::compute_node {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PrefetchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_node::ShardOptions in_memory;
    in_memory.background = false;
    stored_ =
        *memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), backend_.get(), in_memory);
    shard_ = std::make_unique<BreakingShard>(*stored_);
    Start(/*prefetch_layers=*/8);
    MakeBankOf(*router_, 6);
  }

  // A node with an empty cache.
  void Start(int prefetch_layers) {
    router_.reset();
    NodeOptions options = TinyModel();
    options.prefetch_layers = prefetch_layers;
    node_ = *Node::Load(options, *backend_);
    ASSERT_GT(node_->transformer().config().memory.router_layers.size(), 1u);
    map_.shards = {{"a", "host:1"}};
    router_ = std::make_unique<router::Router>(map_, std::vector<rpc::MemoryShard*>{shard_.get()},
                                               std::vector<rpc::ComputeNode*>{node_.get()});
    node_->Attach(router_.get(), {shard_.get()}, {"a"});
  }

  absl::StatusOr<rpc::RetrieveReply> Retrieve(bool allow_partial = false) {
    return router_->Retrieve(ctx_, CoinQuestion(6, allow_partial));
  }

  rpc::CallContext ctx_;
  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
  std::unique_ptr<memory_node::LocalShard> stored_;
  std::unique_ptr<BreakingShard> shard_;
  std::unique_ptr<Node> node_;
  rpc::ShardMap map_;
  std::unique_ptr<router::Router> router_;
};

TEST_F(PrefetchTest, FindsWhatOneLayerAtATimeFinds) {
  const auto together = Retrieve();
  ASSERT_TRUE(together.ok()) << together.status();
  const int fetches = shard_->fetches;
  Start(/*prefetch_layers=*/1);
  const auto each = Retrieve();
  ASSERT_TRUE(each.ok()) << each.status();
  EXPECT_EQ(fetches, 1);
  EXPECT_EQ(shard_->fetches - fetches, 2);  // router layers
  ASSERT_EQ(together->documents.size(), each->documents.size());
  for (size_t i = 0; i < each->documents.size(); ++i) {
    EXPECT_EQ(together->documents[i].document_id, each->documents[i].document_id);
    EXPECT_EQ(together->documents[i].score, each->documents[i].score);
  }
}

TEST_F(PrefetchTest, AShardThatDiesAfterALayerFailsTheLayersThatNeedIt) {
  shard_->layers_sent = 1;
  shard_->then = [](const auto&) { return absl::UnavailableError("shard 'a': connection reset"); };
  const absl::Status status = Retrieve().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 'a'"));
  Start(8);
  const auto partial = Retrieve(/*allow_partial=*/true);
  ASSERT_TRUE(partial.ok()) << partial.status();
  EXPECT_THAT(partial->missing_shards, ElementsAre("a"));
}

// Nothing of the question is left running: its end is that of its calls.
TEST_F(PrefetchTest, AQuestionThatFailsEndsWhatIsOnItsWay) {
  absl::Status ended;
  shard_->layers_sent = 1;
  shard_->then = [&](const rpc::CallContext& ctx) { return ended = UntilUnwanted(ctx); };
  ctx_.deadline = absl::Now() + absl::Milliseconds(300);
  EXPECT_FALSE(Retrieve().ok());
  EXPECT_FALSE(ended.ok());
}

}  // namespace
}  // namespace msa::compute_node
