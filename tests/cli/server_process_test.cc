#include "cli/server_process.h"

#include <unistd.h>

#include "cli/exit_code.h"
#include "gtest/gtest.h"

namespace msa::cli {
namespace {

TEST(EndWithinDeathTest, AProcessThatNeverEndsIsEnded) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang = [] {
    EndWithin(absl::Milliseconds(1));
    while (true) pause();
  };
  EXPECT_EXIT(hang(), ::testing::ExitedWithCode(kExitUnavailable), "ending without");
}

}  // namespace
}  // namespace msa::cli
