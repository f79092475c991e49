// What the log of a server says of its calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/log.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::msa::testing::FakeShard;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class LogLoopback : public ::testing::Test {
 protected:
  // What was written while a client made `call` with this request id.
  std::string LogOf(const std::string& request_id) {
    CallContext context = Within(absl::Seconds(60));
    context.request_id = request_id;
    ::testing::internal::CaptureStderr();
    status_ = client_->ListBanks(context).status();
    return ::testing::internal::GetCapturedStderr();
  }

  FakeShard shard_;
  const std::unique_ptr<GrpcServer> server_ = ServeLoopback(&shard_);
  const std::unique_ptr<MemoryShard> client_ = MakeRemoteMemoryShard(ClientOf(*server_));
  absl::Status status_;
};

TEST_F(LogLoopback, AHandlersLinesHaveTheRequestIdOfTheClientsCall) {
  shard_.before = [](const std::string&, const CallContext&) {
    Log(LogLevel::kInfo, "was asked");
    return absl::OkStatus();
  };
  EXPECT_THAT(LogOf("9f2c"), EndsWith("was asked request_id=9f2c\n"));
  EXPECT_THAT(LogOf(""), EndsWith("was asked\n")) << "the thread keeps none";
  EXPECT_TRUE(status_.ok()) << status_;
}

TEST_F(LogLoopback, ACallThatFailsHasALineWithItsRequestId) {
  shard_.before = [](const std::string&, const CallContext&) {
    return absl::UnavailableError("the GPU has failed");
  };
  EXPECT_THAT(LogOf("9f2c"),
              HasSubstr("warning a call failed  method=msa.v1.ShardService/ListBanks "
                        "code=UNAVAILABLE why=\"the GPU has failed\" request_id=9f2c\n"));
  EXPECT_TRUE(absl::IsUnavailable(status_)) << status_;
}

TEST_F(LogLoopback, ACallersOwnFaultHasNoLine) {
  shard_.before = [](const std::string&, const CallContext&) {
    return absl::NotFoundError("there is no such bank");
  };
  EXPECT_EQ(LogOf("9f2c"), "");
  EXPECT_TRUE(absl::IsNotFound(status_)) << status_;
}

}  // namespace
}  // namespace msa::rpc
