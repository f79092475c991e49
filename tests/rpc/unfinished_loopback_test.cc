// Requests that begin and do not come whole: how long they are waited for and what they may hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/rpc/loopback.h"
#include "tests/rpc/raw_call.h"
#include "tests/support/fake_memory_service.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::msa::testing::FakeMemoryService;
using ::msa::testing::FakeShard;
using ::testing::HasSubstr;

constexpr char kListBanks[] = "/msa.v1.ShardService/ListBanks";

// The code that the first call ended with.
class FirstEnd : public CallObserver {
 public:
  void OnCallBegun(std::string_view, std::string_view) override {}
  void OnCallEnded(std::string_view, std::string_view, absl::StatusCode code,
                   absl::Duration) override {
    if (ended.HasBeenNotified()) return;
    code_ = code;
    ended.Notify();
  }
  absl::StatusCode Await() {
    EXPECT_TRUE(ended.WaitForNotificationWithTimeout(absl::Seconds(20)));
    return code_;
  }

 private:
  absl::Notification ended;
  absl::StatusCode code_ = absl::StatusCode::kOk;
};

TEST(UnfinishedRequests, AreGivenUpInWordsAndCounted) {
  FakeShard shard;
  FirstEnd end;
  GrpcServer::Builder builder({.first_message_within = absl::Milliseconds(100), .observer = &end});
  const auto server = *builder.Add(&shard).Start("127.0.0.1:0");
  RawCall call(server->port(), kListBanks, 1000);
  EXPECT_THAT(call.AwaitText("whole within"), HasSubstr("was not whole within 100ms"));
  EXPECT_EQ(end.Await(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(call.Ended(20000));
  EXPECT_TRUE(MakeRemoteMemoryShard(ClientOf(*server))->ListBanks(Within(absl::Seconds(60))).ok());
}

TEST(UnfinishedRequests, AStreamThatBeganMayWaitForItsClient) {
  FakeMemoryService service;
  GrpcServer::Builder builder({.first_message_within = absl::Milliseconds(100)});
  const auto server = *builder.Add(&service).Start("127.0.0.1:0");
  const auto client = MakeRemoteMemoryService(ClientOf(*server));
  int documents = 0, results = 0;
  const auto next = [&]() -> std::optional<NewDocument> {
    if (documents++ > 0) return std::nullopt;
    // A later call is given up while this one, of which the bank has come, waits.
    RawCall call(server->port(), "/msa.v1.MemoryService/ListBanks", 1);
    call.AwaitText("whole within");
    return NewDocument{.id = "d", .title = "", .text = "text", .metadata = {}};
  };
  const absl::Status status = client->AddDocuments(Within(absl::Seconds(60)), "default", next,
                                                   [&](const AddResult& result) {
                                                     results += result.status.ok();
                                                     return true;
                                                   });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(results, 1);
}

TEST(UnfinishedRequests, AServerMayBeShutDownWhileTheyAreAwaited) {
  FakeShard shard;
  auto server = ServeLoopback(static_cast<MemoryShard*>(&shard));
  RawCall call(server->port(), kListBanks, 1);
  EXPECT_FALSE(call.Ended(0));
  server->Shutdown(absl::ZeroDuration());
  EXPECT_TRUE(call.Ended(20000));
}

TEST(UnfinishedRequests, TogetherHoldNoMoreThanTheyMay) {
  FakeShard shard;
  GrpcServer::Builder builder({.incoming_bytes = 4 << 20});
  const auto server = *builder.Add(&shard).Start("127.0.0.1:0");
  std::vector<std::unique_ptr<RawCall>> calls;
  const auto ended = [&](int wait_ms) {
    int count = 0;
    for (const auto& call : calls) count += call->Ended(wait_ms);
    return count;
  };
  while (calls.size() < 400 && ended(0) == 0) {  // 24 MB
    calls.push_back(std::make_unique<RawCall>(server->port(), kListBanks, 60000));
  }
  EXPECT_GT(ended(1), 0) << "none was ended";
  calls.clear();
  EXPECT_TRUE(MakeRemoteMemoryShard(ClientOf(*server))->ListBanks(Within(absl::Seconds(60))).ok());
}

}  // namespace
}  // namespace msa::rpc
