#include "cli/server_process.h"

#include <pthread.h>
#include <signal.h>
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

sigset_t HeldBack() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

TEST(EarlyEndDeathTest, ASignalEndsWhatDoesNotServeYet) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto load = [] {
    const EarlyEnd early_end(HeldBack());
    kill(getpid(), SIGTERM);
    while (true) pause();
  };
  EXPECT_EXIT(load(), ::testing::KilledBySignal(SIGTERM), "ended before it served");
}

TEST(EarlyEndTest, ALaterSignalIsHeldBack) {
  const sigset_t signals = HeldBack();
  { const EarlyEnd early_end(signals); }
  kill(getpid(), SIGTERM);
  EXPECT_EQ(sigwaitinfo(&signals, nullptr), SIGTERM);
}

}  // namespace
}  // namespace msa::cli
