// Dead, slow and busy peers, cancelled calls, ports in use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::msa::testing::FakeShard;
using ::msa::testing::HangUntilDeadline;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

// A socket that accepts connections in the kernel and never answers: a peer that hangs.
class SilentPeer {
 public:
  SilentPeer() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(socket_, 16), 0);
    EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentPeer() { ::close(socket_); }
  int port() const { return port_; }

 private:
  const int socket_;
  int port_ = 0;
};

TEST(Faults, RefusedConnectionIsUnavailableByNameAtOnce) {
  int port;
  {
    SilentPeer peer;
    port = peer.port();
  }  // nobody listens there any more
  RemoteOptions options{.address = absl::StrCat("127.0.0.1:", port), .name = "shard 'b'"};
  const auto shard = MakeRemoteMemoryShard(options);
  const absl::Time begin = absl::Now();
  const absl::Status status = shard->ListBanks(Within(absl::Seconds(30))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr(absl::StrCat("shard 'b' (127.0.0.1:", port)));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

TEST(Faults, SilentPeerIsUnavailableWithinTheDeadline) {
  SilentPeer peer;
  RemoteOptions options{.address = absl::StrCat("127.0.0.1:", peer.port()), .name = "shard 'b'"};
  const auto shard = MakeRemoteMemoryShard(options);
  const absl::Time begin = absl::Now();
  const absl::Status status = shard->ListBanks(Within(absl::Milliseconds(300))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 'b'"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST(Faults, SlowHandlerIsDeadlineExceededByNameAndSeesTheDeadline) {
  FakeShard slow;
  std::atomic<bool> saw_deadline = false;
  slow.before = [&](const std::string&, const CallContext& ctx) {
    saw_deadline = ctx.deadline < absl::Now() + absl::Seconds(5);
    return HangUntilDeadline(ctx);
  };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&slow));
  const auto shard = MakeRemoteMemoryShard(ClientOf(*server, "shard 'b'"));
  const absl::Status status = shard->ListBanks(Within(absl::Milliseconds(300))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 'b'"));
  EXPECT_TRUE(saw_deadline);
}

TEST(Faults, DefaultTimeoutAppliesWhereThereIsNoDeadline) {
  FakeShard slow;
  slow.before = [](const std::string&, const CallContext& ctx) { return HangUntilDeadline(ctx); };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&slow));
  RemoteOptions options = ClientOf(*server);
  options.timeout = absl::Milliseconds(200);
  const auto shard = MakeRemoteMemoryShard(options);
  EXPECT_EQ(shard->ListBanks(CallContext()).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(Faults, CancellationReachesTheHandler) {
  FakeShard slow;
  absl::Notification entered, left;
  slow.before = [&](const std::string&, const CallContext& ctx) {
    entered.Notify();
    const absl::Status status = HangUntilDeadline(ctx);
    left.Notify();
    return status;
  };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&slow));
  const auto shard = MakeRemoteMemoryShard(ClientOf(*server));
  CallContext context = Within(absl::Seconds(60));
  context.cancelled = [&entered] { return entered.HasBeenNotified(); };
  EXPECT_EQ(shard->ListBanks(context).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(left.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

// As gRPC ends calls that reach a server while it stops.
TEST(Faults, ACallThatItsPeerCancelsIsUnavailableByName) {
  FakeShard stopping;
  stopping.before = [](const std::string&, const CallContext&) { return absl::CancelledError(""); };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&stopping));
  const auto shard = MakeRemoteMemoryShard(ClientOf(*server, "shard 'b'"));
  const absl::Status status = shard->ListBanks(Within(absl::Seconds(60))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 'b'"));
}

TEST(Faults, PassedDeadlineAndGoneClientAreRefusedWithoutACall) {
  FakeShard local;
  std::atomic<int> calls = 0;
  local.before = [&](const std::string&, const CallContext&) {
    ++calls;
    return absl::OkStatus();
  };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  const auto shard = MakeRemoteMemoryShard(ClientOf(*server));
  EXPECT_EQ(shard->ListBanks(Within(-absl::Seconds(1))).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  CallContext gone;
  gone.cancelled = [] { return true; };
  EXPECT_EQ(shard->ListBanks(gone).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 0);
}

TEST(Faults, RequestIdTravels) {
  FakeShard local;
  std::string seen;
  local.before = [&](const std::string&, const CallContext& ctx) {
    seen = ctx.request_id;
    return absl::OkStatus();
  };
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  CallContext context;
  context.request_id = "req-1";
  ASSERT_TRUE(MakeRemoteMemoryShard(ClientOf(*server))->ListBanks(context).ok());
  EXPECT_EQ(seen, "req-1");
}

TEST(Faults, RestartedPeerIsFoundAgain) {
  FakeShard local;
  auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  const RemoteOptions options = ClientOf(*server);
  const auto shard = MakeRemoteMemoryShard(options);
  ASSERT_TRUE(shard->ListBanks(Within(absl::Seconds(10))).ok());
  server.reset();
  EXPECT_EQ(shard->ListBanks(Within(absl::Seconds(10))).status().code(),
            absl::StatusCode::kUnavailable);
  GrpcServer::Builder builder;
  auto again = builder.Add(static_cast<MemoryShard*>(&local)).Start(options.address);
  ASSERT_TRUE(again.ok()) << again.status();
  const absl::Time end = absl::Now() + absl::Seconds(20);
  absl::Status status;
  do {
    status = shard->ListBanks(Within(absl::Seconds(10))).status();
  } while (!status.ok() && absl::Now() < end);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(Faults, PortInUseIsSaidWithTheAddress) {
  FakeShard local;
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  const std::string address = ClientOf(*server).address;
  GrpcServer::Builder builder;
  const absl::Status status =
      builder.Add(static_cast<MemoryShard*>(&local)).Start(address).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr(address));
}

// One whose calls wait until it is let go.
class BusyShard : public FakeShard {
 public:
  BusyShard() {
    before = [this](const std::string&, const CallContext&) {
      entered_ = true;
      go.WaitForNotification();
      return absl::OkStatus();
    };
  }
  void AwaitCall() const {
    while (!entered_) std::this_thread::yield();
  }

  absl::Notification go;

 private:
  std::atomic<bool> entered_ = false;
};

TEST(Faults, FullServerRefusesInWords) {
  BusyShard slow;
  GrpcServer::Builder builder({.threads = 1, .queue = 0});
  const auto server = builder.Add(static_cast<MemoryShard*>(&slow)).Start("127.0.0.1:0");
  ASSERT_TRUE(server.ok());
  const auto shard = MakeRemoteMemoryShard(ClientOf(**server));
  std::thread first([&] { EXPECT_TRUE(shard->ListBanks(Within(absl::Seconds(60))).ok()); });
  slow.AwaitCall();
  EXPECT_EQ(shard->ListBanks(Within(absl::Seconds(60))).status().code(),
            absl::StatusCode::kResourceExhausted);
  slow.go.Notify();
  first.join();
}

// Those that compute nodes let wait must not wait for a thread first.
TEST(Faults, LongCallsHaveThreadsForTheQuestionsThatAServerTakes) {
  FakeShard slow;
  absl::BlockingCounter entered(3);
  absl::Notification go;
  slow.before = [&](const std::string&, const CallContext&) {
    entered.DecrementCount();
    go.WaitForNotification();
    return absl::OkStatus();
  };
  GrpcServer::Builder builder({.threads = 1, .questions = 2, .queue = 0});
  const auto server = builder.Add(static_cast<MemoryShard*>(&slow)).Start("127.0.0.1:0");
  ASSERT_TRUE(server.ok());
  const auto shard = MakeRemoteMemoryShard(ClientOf(**server));
  const auto code = [&] { return shard->SetCoarse(Within(absl::Seconds(60)), "b", {}).code(); };
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] { EXPECT_EQ(code(), absl::StatusCode::kNotFound); });
  }
  entered.Wait();
  EXPECT_EQ(code(), absl::StatusCode::kResourceExhausted);
  go.Notify();
  for (std::thread& caller : callers) caller.join();
}

TEST(Faults, LargeMessagesThatWouldWaitAreRefusedInWords) {
  BusyShard slow;
  GrpcServer::Builder builder({.threads = 1, .queue = 8, .queue_bytes = 64 << 10});
  const auto server = builder.Add(static_cast<MemoryShard*>(&slow)).Start("127.0.0.1:0");
  ASSERT_TRUE(server.ok());
  const auto shard = MakeRemoteMemoryShard(ClientOf(**server));
  const CallContext context = Within(absl::Seconds(60));
  std::thread first([&] { EXPECT_TRUE(shard->ListBanks(context).ok()); });
  slow.AwaitCall();
  const std::string large(100 << 10, 'x');
  const absl::Status refused = shard->GetDocument(context, large, "id").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(MessageOf(refused), HasSubstr("too many calls wait, or too large ones"));
  std::thread small([&] { EXPECT_TRUE(shard->ListBanks(context).ok()); });
  slow.go.Notify();
  first.join();
  small.join();
  // The thread is free again a moment after its answer is out; until then this one would wait, too.
  absl::StatusCode code = absl::StatusCode::kResourceExhausted;
  const absl::Time patience = absl::Now() + absl::Seconds(10);
  while (code == absl::StatusCode::kResourceExhausted && absl::Now() < patience) {
    std::this_thread::yield();
    code = shard->GetDocument(context, large, "id").status().code();
  }
  EXPECT_EQ(code, absl::StatusCode::kNotFound);
}

TEST(Faults, ShutdownCancelsWhatDoesNotEndInTime) {
  FakeShard slow;
  absl::Notification entered;
  slow.before = [&](const std::string&, const CallContext& ctx) {
    entered.Notify();
    return HangUntilDeadline(ctx);
  };
  auto server = ServeLoopback(static_cast<MemoryShard*>(&slow));
  const auto shard = MakeRemoteMemoryShard(ClientOf(*server));
  absl::Status status;
  std::thread caller([&] { status = shard->ListBanks(Within(absl::Seconds(120))).status(); });
  entered.WaitForNotification();
  server->Shutdown(absl::Milliseconds(10));
  caller.join();
  EXPECT_FALSE(status.ok());
}

TEST(Health, TellsOfEachServiceAndOverall) {
  FakeShard local;
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  const RemoteOptions client = ClientOf(*server);
  const CallContext context = Within(absl::Seconds(30));
  EXPECT_TRUE(CheckHealth(client, context, "").ok());
  EXPECT_TRUE(CheckHealth(client, context, "msa.v1.ShardService").ok());
  EXPECT_EQ(CheckHealth(client, context, "msa.v1.MemoryService").code(),
            absl::StatusCode::kNotFound);
  server->SetServing(false);
  EXPECT_EQ(CheckHealth(client, context, "").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CheckHealth(client, context, "msa.v1.ShardService").code(),
            absl::StatusCode::kUnavailable);
  server->SetServing(true);
  EXPECT_TRUE(CheckHealth(client, context, "msa.v1.ShardService").ok());
}

TEST(Faults, AServiceThatIsNotThereIsUnimplemented) {
  FakeShard local;
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  EXPECT_EQ(
      MakeRemoteComputeNode(ClientOf(*server))->Info(Within(absl::Seconds(30))).status().code(),
      absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace msa::rpc
