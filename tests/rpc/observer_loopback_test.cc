// What a server tells an observer of its calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/strings.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::msa::testing::FakeShard;
using ::msa::testing::HangUntilDeadline;
using ::testing::ElementsAre;
using ::testing::Pair;

class Counting : public CallObserver {
 public:
  void OnCallBegun(std::string_view service, std::string_view method) override {
    absl::MutexLock lock(&mu_);
    ++begun_;
    EXPECT_EQ(service, "msa.v1.ShardService");
  }
  void OnCallEnded(std::string_view service, std::string_view method, absl::StatusCode code,
                   absl::Duration took) override {
    EXPECT_GE(took, least);
    absl::MutexLock lock(&mu_);
    ++ended_;
    ++calls_[StrCat(service, " ", method, " ", absl::StatusCodeToString(code))];
  }

  // Once so many have ended, which a client may know a moment before.
  std::map<std::string, int> Calls(int count) {
    absl::MutexLock lock(&mu_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return ended_ >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(60)));
    EXPECT_EQ(begun_, ended_);
    return calls_;
  }

  absl::Duration least = absl::ZeroDuration();

 private:
  absl::Mutex mu_;
  int begun_ ABSL_GUARDED_BY(mu_) = 0;
  int ended_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, int> calls_ ABSL_GUARDED_BY(mu_);
};

std::unique_ptr<GrpcServer> Serve(MemoryShard* shard, ServerOptions options, Counting* counting) {
  options.observer = counting;
  GrpcServer::Builder builder(options);
  return *builder.Add(shard).Start("127.0.0.1:0");
}

TEST(CallObserver, IsToldOfEachCallOnceAndHowItEnded) {
  FakeShard shard;
  Counting counting;
  const auto server = Serve(&shard, {}, &counting);
  const auto client = MakeRemoteMemoryShard(ClientOf(*server));
  EXPECT_TRUE(client->ListBanks(Within(absl::Seconds(60))).ok());
  EXPECT_TRUE(client->ListBanks(Within(absl::Seconds(60))).ok());
  EXPECT_FALSE(client->Stats(Within(absl::Seconds(60)), "none").ok());
  EXPECT_THAT(counting.Calls(3), ElementsAre(Pair("msa.v1.ShardService ListBanks OK", 2),
                                             Pair("msa.v1.ShardService Stats NOT_FOUND", 1)));
}

TEST(CallObserver, IsToldOfCallsThatNoThreadTook) {
  FakeShard shard;
  Counting counting;
  const auto server = Serve(&shard, {.threads = 0, .queue = 0}, &counting);
  const auto client = MakeRemoteMemoryShard(ClientOf(*server));
  EXPECT_EQ(client->ListBanks(Within(absl::Seconds(60))).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(counting.Calls(1),
              ElementsAre(Pair("msa.v1.ShardService ListBanks RESOURCE_EXHAUSTED", 1)));
}

TEST(CallObserver, ADurationIsThatOfTheWholeCall) {
  FakeShard shard;
  shard.before = [](const std::string&, const CallContext& ctx) { return HangUntilDeadline(ctx); };
  Counting counting;
  counting.least = absl::Milliseconds(150);
  const auto server = Serve(&shard, {}, &counting);
  const auto client = MakeRemoteMemoryShard(ClientOf(*server));
  EXPECT_FALSE(client->ListBanks(Within(absl::Milliseconds(300))).ok());
  EXPECT_EQ(counting.Calls(1).size(), 1u);
}

}  // namespace
}  // namespace msa::rpc
