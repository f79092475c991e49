// A device whose memory for blocks is full: questions are answered as where there is room.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "compute_node/node.h"
#include "gtest/gtest.h"
#include "kernels/forwarding_backend.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "router/router.h"
#include "tests/compute_node/added_documents.h"
#include "tests/compute_node/tiny_model.h"

namespace msa::compute_node {
namespace {

// Memory that the processor is not to read, with `room` bytes for blocks, and `beside` in all when
// they may be elsewhere.
class SmallDevice : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  bool memory_is_host() const override { return false; }
  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    if (purpose == Purpose::kWork) return ForwardingBackend::Allocate(bytes, purpose);
    if (held + bytes > (purpose == Purpose::kCache ? room : beside)) {
      ++refused;
      return absl::ResourceExhaustedError("full");
    }
    auto memory = std::make_shared<kernels::Buffer>(kernels::AllocateHost(bytes));
    held += bytes;
    most = std::max<size_t>(most, held);
    return kernels::Buffer(memory->data(), bytes,
                           [this, memory](void*) { held -= memory->size(); });
  }

  size_t room = SIZE_MAX;
  size_t beside = SIZE_MAX;
  mutable std::atomic<size_t> held = 0;
  mutable std::atomic<size_t> most = 0;
  mutable std::atomic<int> refused = 0;
};

class FullMemoryTest : public ::testing::Test {
 protected:
  static constexpr int kDocuments = 12;

  void SetUp() override { Start(); }

  // A memory of its own, and a node without blocks.
  void Start() {
    router_ = nullptr;
    node_ = nullptr;
    memory_node::ShardOptions in_memory;
    in_memory.background = false;
    auto shard =
        memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), cpu_.get(), in_memory);
    ASSERT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
    auto node = Node::Load(TinyModel(), device_);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    rpc::ShardMap map;
    map.shards = {{"a", "host:1"}};
    router_ = std::make_unique<router::Router>(map, std::vector<rpc::MemoryShard*>{shard_.get()},
                                               std::vector<rpc::ComputeNode*>{node_.get()});
    node_->Attach(router_.get(), {shard_.get()}, {"a"});
    MakeBankOf(*router_, kDocuments);
  }

  absl::StatusOr<rpc::RetrieveReply> Retrieve() { return router_->Retrieve(ctx_, CoinQuestion(2)); }

  // The documents of the same question again and again, each time without those found before,
  // whose blocks stay in the cache.
  std::vector<std::string> AskAndDelete() {
    std::vector<std::string> all;
    for (int i = 0; i < 4; ++i) {
      const auto reply = Retrieve();
      EXPECT_TRUE(reply.ok()) << reply.status();
      if (!reply.ok()) break;
      for (const rpc::RoutedDocument& document : reply->documents) {
        all.push_back(document.document_id);
        EXPECT_TRUE(router_->DeleteDocuments(ctx_, "default", {document.document_id}).ok());
      }
    }
    return all;
  }

  rpc::CallContext ctx_;
  const std::unique_ptr<kernels::Backend> cpu_ = *kernels::MakeBackend("cpu", 1);
  SmallDevice device_{*cpu_};
  std::unique_ptr<memory_node::LocalShard> shard_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<router::Router> router_;
};

TEST_F(FullMemoryTest, BlocksThatNobodyReadsMakeRoom) {
  const auto expected = AskAndDelete();
  ASSERT_EQ(expected.size(), 8u);
  ASSERT_EQ(device_.refused, 0);
  const size_t all = device_.held;  // in the cache
  ASSERT_GT(all, 0u);
  Start();
  EXPECT_EQ(device_.held, 0u);
  device_.room = device_.beside = all * 6 / 10;
  device_.most = 0;
  EXPECT_EQ(AskAndDelete(), expected);
  EXPECT_GT(device_.refused, 0);
  EXPECT_LE(device_.most, device_.room);
}

TEST_F(FullMemoryTest, WhereADeviceHasNoRoomAtAllBlocksAreElsewhere) {
  const auto expected = AskAndDelete();
  Start();
  device_.room = 0;
  EXPECT_EQ(AskAndDelete(), expected);
  EXPECT_GT(device_.held, 0u);
}

TEST_F(FullMemoryTest, AQuestionWhoseOwnBlocksDoNotFitIsRefused) {
  device_.room = device_.beside = 1;
  const absl::Status status = Retrieve().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  device_.room = device_.beside = SIZE_MAX;
  EXPECT_TRUE(Retrieve().ok());
}

}  // namespace
}  // namespace msa::compute_node
