// The contract of rpc::MemoryShard on the remote shard: gRPC on a loopback socket over a local
// shard in memory.
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "tests/rpc/loopback.h"
#include "tests/support/memory_shard_contract.h"

namespace msa::testing {
namespace {

class RemoteShardUnderTest : public ShardUnderTest {
 public:
  RemoteShardUnderTest() {
    auto backend = kernels::MakeBackend("reference", 1);
    EXPECT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    memory_node::ShardOptions options;
    options.background = false;
    options.now = [this] { return now_; };
    auto local =
        memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), backend_.get(), options);
    EXPECT_TRUE(local.ok()) << local.status();
    local_ = *std::move(local);
    server_ = rpc::ServeLoopback(static_cast<rpc::MemoryShard*>(local_.get()));
    remote_ = rpc::MakeRemoteMemoryShard(rpc::ClientOf(*server_, "shard 'a'"));
  }

  rpc::MemoryShard& shard() override { return *remote_; }
  bool AdvanceClock(absl::Duration by) override {
    now_ += by;
    return true;
  }
  bool RunMaintenance() override {
    local_->RunMaintenance();
    return true;
  }

 private:
  absl::Time now_ = absl::Now();
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<memory_node::LocalShard> local_;
  std::unique_ptr<rpc::GrpcServer> server_;
  std::unique_ptr<rpc::MemoryShard> remote_;
};

INSTANTIATE_TEST_SUITE_P(Remote, MemoryShardContract,
                         ::testing::Values(NamedShardFactory{
                             "grpc", [] { return std::make_unique<RemoteShardUnderTest>(); }}),
                         FactoryName);

}  // namespace
}  // namespace msa::testing
