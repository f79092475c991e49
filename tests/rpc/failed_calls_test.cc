#include "rpc/failed_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_split.h"

namespace msa::rpc {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class FailedCallsTest : public ::testing::Test {
 protected:
  // The lines of `count` calls that ended `after` the beginning.
  std::vector<std::string> Lines(int count, absl::Duration after,
                                 absl::StatusCode code = absl::StatusCode::kUnavailable) {
    ::testing::internal::CaptureStderr();
    for (int i = 0; i < count; ++i) {
      failed_.Ended("msa.v1.ShardService", "Stats", code, "shard 's1' is down",
                    absl::UnixEpoch() + after);
    }
    const std::string log = ::testing::internal::GetCapturedStderr();
    return absl::StrSplit(log, '\n', absl::SkipEmpty());
  }

  FailedCalls failed_;
};

TEST_F(FailedCallsTest, AreThoseThatTheAlertCounts) {
  for (const auto code : {absl::StatusCode::kUnavailable, absl::StatusCode::kInternal,
                          absl::StatusCode::kDataLoss, absl::StatusCode::kUnknown}) {
    EXPECT_THAT(
        Lines(1, absl::ZeroDuration(), code),
        ElementsAre(EndsWith("warning a call failed  method=msa.v1.ShardService/Stats code=" +
                             absl::StatusCodeToString(code) + " why=\"shard 's1' is down\"")));
  }
  for (const auto code :
       {absl::StatusCode::kOk, absl::StatusCode::kNotFound, absl::StatusCode::kCancelled,
        absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition}) {
    EXPECT_THAT(Lines(1, absl::ZeroDuration(), code), IsEmpty());
  }
}

TEST_F(FailedCallsTest, AStormHasTenLinesASecondAndThenTheNumberOfTheOthers) {
  EXPECT_THAT(Lines(4, absl::ZeroDuration()), SizeIs(4));
  EXPECT_THAT(Lines(1000, absl::Milliseconds(999)), SizeIs(6));
  EXPECT_THAT(Lines(2, absl::Seconds(1)),
              ElementsAre(HasSubstr(" left_out=994"), Not(HasSubstr("left_out"))));
  EXPECT_THAT(Lines(20, absl::Milliseconds(1500)),
              AllOf(SizeIs(8), Each(Not(HasSubstr("left_out")))));
  // The clock was set back.
  EXPECT_THAT(Lines(1, -absl::Hours(1)), ElementsAre(EndsWith(" left_out=12")));
}

}  // namespace
}  // namespace msa::rpc
