// By a clock that goes on with every question.
#include "kernels/cuda/limited_wait.h"

#include "gtest/gtest.h"

namespace msa::kernels::cuda {
namespace {

class LimitedWaitTest : public ::testing::Test {
 protected:
  Waited Await() {
    return AwaitWithin(
        absl::Seconds(1), [&] { return asked++ == done_after; },
        [&] { return asked > failed_after; }, [&] { ++paused; },
        [&] { return absl::UnixEpoch() + absl::Milliseconds(asked); });
  }

  int asked = 0;
  int paused = 0;
  int done_after = -1;
  int failed_after = 1 << 30;
};

TEST_F(LimitedWaitTest, EndsWithWhatIsWaitedFor) {
  done_after = 900;
  EXPECT_EQ(Await(), Waited::kDone);
  EXPECT_EQ(asked, 901);
  EXPECT_EQ(paused, 900);
}

TEST_F(LimitedWaitTest, WhatIsDoneIsNotWaitedFor) {
  done_after = 0;
  failed_after = 0;
  EXPECT_EQ(Await(), Waited::kDone);
  EXPECT_EQ(paused, 0);
}

TEST_F(LimitedWaitTest, WhatHangsEndsAtTheLimit) {
  EXPECT_EQ(Await(), Waited::kLate);
  EXPECT_GE(asked, 1000);
  EXPECT_LT(asked, 1200);
}

TEST_F(LimitedWaitTest, WhatAnotherFoundToHangIsNotWaitedFor) {
  failed_after = 100;
  EXPECT_EQ(Await(), Waited::kGivenUp);
  EXPECT_LT(asked, 300);
}

}  // namespace
}  // namespace msa::kernels::cuda
