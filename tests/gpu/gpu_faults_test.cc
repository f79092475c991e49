// What goes wrong with GPUs: a clear status, within a limit, again and again, and the process
// lives. A case that breaks a GPU breaks it for the process: CMake runs each case in a process of
// its own; by hand, name one with --gtest_filter.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/strings.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/limited_wait.h"
#include "kernels/cuda/nccl_collective.h"
#include "kernels/group_backend.h"
#include "memory_node/shard.h"
#include "tests/gpu/trap.h"
#include "tests/support/encoded_documents.h"

namespace msa {
namespace {

using kernels::BackendSet;
using kernels::cuda::Device;
using memory_node::LocalShard;

std::vector<int> FirstGpus(int count) {
  std::vector<int> gpus;
  for (int i = 0; i < count; ++i) gpus.push_back(i);
  return gpus;
}

// A node with a bank of 200 documents, asked for the best of them.
class Node {
 public:
  Node(const kernels::Backend& backend, DType keys) : bank_(testing::TestBank(keys, keys)) {
    memory_node::ShardOptions options;
    options.background = false;
    options.index.min_segment_chunks = 32;
    options.index.max_segment_bytes_per_layer = 1;
    shard_ = *LocalShard::Open(memory_node::MakeMemoryStore(), &backend, options);
    EXPECT_TRUE(shard_->CreateBank({}, bank_).ok());
  }

  absl::Status Put(int64_t reference) {
    const auto document =
        testing::MakeDocument(bank_, {.id = StrCat("d", reference), .first_reference = reference});
    return shard_->PutDocument({}, document).status();
  }
  absl::StatusOr<std::vector<rpc::RoutedPart>> Route() {
    auto snapshot = shard_->OpenSnapshot({}, bank_.name, absl::Minutes(1));
    if (!snapshot.ok()) return snapshot.status();
    rpc::RouteRequest request;
    request.bank = bank_.name;
    request.snapshot_id = snapshot->id;
    request.layer = bank_.router_layers[0];
    request.queries = testing::MakeQueries(bank_, 3, 7);
    request.top_k = 16;
    return shard_->Route({}, request);
  }
  LocalShard& shard() { return *shard_; }
  const rpc::BankSpec& bank() const { return bank_; }

 private:
  const rpc::BankSpec bank_;
  std::unique_ptr<LocalShard> shard_;
};

void ExpectUnavailableFromNowOn(Node& node) {
  for (int i = 0; i < 3; ++i) {
    const absl::Time start = absl::Now();
    const auto routed = node.Route();
    EXPECT_TRUE(absl::IsUnavailable(routed.status())) << routed.status();
    EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  }
  // What needs no GPU goes on.
  EXPECT_TRUE(node.shard().GetDocument({}, node.bank().name, "d5").ok());
  EXPECT_TRUE(node.shard().DeleteDocument({}, node.bank().name, "d5").ok());
  // What does is refused and leaves nothing.
  EXPECT_FALSE(node.Put(100'000).ok());
  EXPECT_TRUE(absl::IsNotFound(node.shard().GetDocument({}, node.bank().name, "d100000").status()));
}

TEST(GpuFaults, AnOldGpuIsRefusedByName) {
  EXPECT_TRUE(kernels::cuda::CheckArchitecture("NVIDIA A100", 8, 0).ok());
  EXPECT_TRUE(kernels::cuda::CheckArchitecture("NVIDIA H200", 9, 0).ok());
  const absl::Status old = kernels::cuda::CheckArchitecture("Tesla V100", 7, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(old));
  EXPECT_TRUE(absl::StrContains(old.message(), "Tesla V100")) << old;
}

TEST(GpuFaults, AGpuThatIsNotThereIsAFailedPrecondition) {
  for (const std::vector<int>& gpus : {std::vector<int>{99}, std::vector<int>{98, 99}}) {
    const auto set = BackendSet::Make("cuda", {}, gpus);
    EXPECT_TRUE(absl::IsFailedPrecondition(set.status())) << set.status();
  }
}

class OnGpus : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    auto set = BackendSet::Make("cuda", {}, FirstGpus(GetParam()));
    if (!set.ok()) GTEST_SKIP() << set.status();
    set_ = std::make_unique<BackendSet>(*std::move(set));
    node_ = std::make_unique<Node>(set_->memory(), DType::kBFloat16);
    for (int64_t i = 0; i < 200; ++i) ASSERT_TRUE(node_->Put(i).ok());
    const auto routed = node_->Route();
    ASSERT_TRUE(routed.ok()) << routed.status();
    ASSERT_EQ(routed->size(), 16u);
  }
  std::unique_ptr<BackendSet> set_;
  std::unique_ptr<Node> node_;
};

TEST_P(OnGpus, AFaultOfTheLastGpuMakesRoutingUnavailable) {
  testing::BreakGpu(GetParam() - 1);
  ExpectUnavailableFromNowOn(*node_);
  EXPECT_FALSE(set_->memory().Health().ok());
  EXPECT_FALSE(set_->member(GetParam() - 1).Health().ok());
}

// And the process ends although its GPU does not.
TEST_P(OnGpus, AGpuThatHangsMakesRoutingUnavailableAtTheLimit) {
  testing::HangGpu(GetParam() - 1);
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(node_->Route().status()));
  // Several wait for one another no longer than for a gather.
  const absl::Duration limit = GetParam() > 1 ? absl::Seconds(15) : kernels::cuda::kHangLimit;
  EXPECT_LT(absl::Now() - start, limit + absl::Seconds(5));
  ExpectUnavailableFromNowOn(*node_);
  EXPECT_FALSE(set_->memory().Health().ok());
}

INSTANTIATE_TEST_SUITE_P(Sizes, OnGpus, ::testing::Values(1, 2, 4));

// Keys beyond both tiers: the add is refused, what was there is still found.
TEST(GpuFaults, ABankLargerThanEveryTierIsRefusedAndServed) {
  kernels::BackendOptions options;
  options.gpu_memory_bytes = 33 << 20;  // cuBLAS takes 32
  options.host_memory_bytes = 1 << 20;
  const auto set = BackendSet::Make("cuda", options, {0});
  if (!set.ok()) GTEST_SKIP() << set.status();
  Node node(set->memory(), DType::kFloat32);
  absl::Status status;
  int64_t taken = 0;
  while (status.ok() && taken < 100'000) {
    status = node.Put(taken);
    taken += status.ok();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(taken, 100);
  const auto routed = node.Route();
  EXPECT_TRUE(routed.ok()) << routed.status();
  EXPECT_EQ(routed->size(), 16u);
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_TRUE(node.shard().DeleteDocument({}, node.bank().name, StrCat("d", i)).ok());
  }
  const auto stats = node.shard().Stats({}, node.bank().name);
  EXPECT_EQ(stats->num_documents, taken - 20);
  EXPECT_TRUE(set->memory().Health().ok()) << set->memory().Health();
}

// What is left of the GPU's memory, but for a few MB.
class TakenMemory {
 public:
  TakenMemory() {
    for (size_t bytes = size_t{1} << 36; bytes >= size_t{1} << 20; bytes /= 2) {
      for (void* data = nullptr; cudaMalloc(&data, bytes) == cudaSuccess;) taken_.push_back(data);
    }
    cudaGetLastError();
  }
  ~TakenMemory() {
    for (void* data : taken_) cudaFree(data);
  }

 private:
  std::vector<void*> taken_;
};

TEST(GpuFaults, AnOperationThatTheDriverGivesNoRoomHasItsResultAllTheSame) {
  const auto backend = kernels::MakeBackend("cuda", kernels::BackendOptions{});
  if (!backend.ok()) GTEST_SKIP() << backend.status();
  constexpr int64_t kRows = 4096, kWidth = 2048, kOut = 256;
  std::vector<float> w(kOut * kWidth), x(kRows * kWidth);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 11) - 5;
  const auto linear =
      *(*backend)->PackLinear(w.data(), kOut, kWidth, kernels::WeightFormat::kBFloat16);
  const auto product = [&] {
    std::vector<float> y(kRows * kOut);
    (*backend)->Linear(*linear, x.data(), kRows, nullptr, y.data());
    return y;
  };
  std::vector<float> full;
  {
    const TakenMemory taken;
    for (int i = 0; i < 3; ++i) full = product();
    EXPECT_TRUE(absl::IsResourceExhausted(
        (*backend)->Allocate(size_t{64} << 20, kernels::Backend::Purpose::kWork).status()));
  }
  EXPECT_EQ(full, product());
  EXPECT_TRUE((*backend)->Health().ok()) << (*backend)->Health();
}

// Two processes on one GPU: what befalls one is not the other's.
class TwoProcesses : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  static constexpr int kAsExpected = 42;  // 0 is what the other would end with that skips
};

TEST_F(TwoProcesses, AFaultOfTheOtherLeavesThisOneServing) {
  const auto set = BackendSet::Make("cuda", {}, {0});
  if (!set.ok()) GTEST_SKIP() << set.status();
  Node node(set->memory(), DType::kBFloat16);
  for (int64_t i = 0; i < 200; ++i) ASSERT_TRUE(node.Put(i).ok());
  const auto before = node.Route();
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EXIT(
      {
        testing::BreakGpu(0);
        std::_Exit(absl::IsUnavailable(node.Route().status()) ? kAsExpected : 1);
      },
      ::testing::ExitedWithCode(kAsExpected), "");
  const auto after = node.Route();
  ASSERT_TRUE(after.ok()) << after.status();
  ASSERT_EQ(after->size(), before->size());
  for (size_t i = 0; i < after->size(); ++i) {
    EXPECT_EQ((*after)[i].scored.reference, (*before)[i].scored.reference);
    EXPECT_EQ((*after)[i].scored.score, (*before)[i].scored.score);
  }
  EXPECT_TRUE(node.Put(200).ok());
  EXPECT_TRUE(set->memory().Health().ok()) << set->memory().Health();
}

TEST_F(TwoProcesses, AGpuThatTheOtherFillsIsRefusedByNameAtTheStart) {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) GTEST_SKIP() << "no GPU";
  const TakenMemory taken;
  EXPECT_EXIT(
      {
        const auto set = BackendSet::Make("cuda", {}, {0});
        std::fprintf(stderr, "%s\n", set.status().ToString().c_str());
        std::_Exit(absl::IsResourceExhausted(set.status()) ? kAsExpected : 1);
      },
      ::testing::ExitedWithCode(kAsExpected), "GPU 0.*nvidia-smi");
}

class TwoDevices : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 2; ++i) {
      auto device = Device::Open({.gpu = i});
      if (!device.ok()) GTEST_SKIP() << device.status();
      devices_[i] = *std::move(device);
      from_[i] = *devices_[i]->Allocate(kBytes, kernels::Backend::Purpose::kWork);
      const std::vector<char> bytes(kBytes, static_cast<char>('a' + i));
      devices_[i]->Copy(from_[i].data(), bytes.data(), kBytes);
    }
    auto made = kernels::cuda::MakeNcclCollective({devices_[0].get(), devices_[1].get()},
                                                  {.timeout = absl::Seconds(1)});
    ASSERT_TRUE(made.ok()) << made.status();
    collective_ = *std::move(made);
    ASSERT_TRUE(Gather().ok());
    ASSERT_EQ(std::string(gathered_, 2 * kBytes),
              std::string(kBytes, 'a') + std::string(kBytes, 'b'));
  }
  absl::Status Gather() {
    const std::vector<const void*> from = {from_[0].data(), from_[1].data()};
    return collective_->AllGather(from, kBytes, gathered_);
  }
  // Twice, within the time-outs of the gather and of ending it.
  void ExpectUnavailable() {
    const absl::Time start = absl::Now();
    for (int i = 0; i < 2; ++i) {
      const absl::Status status = Gather();
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    }
    EXPECT_LT(absl::Now() - start, absl::Seconds(10));
    EXPECT_FALSE(collective_->Health().ok());
  }

  static constexpr size_t kBytes = 384;
  std::unique_ptr<Device> devices_[2];
  kernels::Buffer from_[2];
  std::unique_ptr<kernels::Collective> collective_;
  char gathered_[2 * kBytes] = {};
};

TEST_F(TwoDevices, APeerThatHangsEndsTheGatherAtItsTimeOut) {
  absl::Notification release;
  devices_[1]->Activate();
  cudaLaunchHostFunc(
      devices_[1]->stream(),
      [](void* notification) {
        static_cast<absl::Notification*>(notification)->WaitForNotification();
      },
      &release);
  ExpectUnavailable();
  EXPECT_TRUE(devices_[1]->failed());  // and is not waited for any more
  release.Notify();
  devices_[1]->Activate();
  cudaDeviceSynchronize();
}

TEST_F(TwoDevices, APeerThatDiesEndsTheGather) {
  testing::BreakGpu(1);
  ExpectUnavailable();
}

}  // namespace
}  // namespace msa
