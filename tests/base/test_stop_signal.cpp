// A wish to stop, and what a second one does.
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/stop_signal.h"

namespace trestle {
namespace {

// In a process of its own: leaves with the number of the signal that was remembered.
void ask_twice(int first, int second) {
  const StopSignal signal;
  ::raise(first);
  ::raise(second);
  std::_Exit(signal.received());
}

TEST(StopSignal, ASecondOneEndsTheProcess) {
  ::unsetenv("TORCHELASTIC_RUN_ID");
  EXPECT_EXIT(ask_twice(SIGTERM, SIGINT), ::testing::KilledBySignal(SIGINT), "");
  EXPECT_EXIT(ask_twice(SIGHUP, SIGTERM), ::testing::KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(ask_twice(SIGTERM, SIGHUP), ::testing::ExitedWithCode(SIGTERM), "");
}

TEST(StopSignal, ASecondOneEndsNoRankOfALauncher) {
  ::setenv("TORCHELASTIC_RUN_ID", "none", 1);
  EXPECT_EXIT(ask_twice(SIGTERM, SIGINT), ::testing::ExitedWithCode(SIGTERM), "");
  ::unsetenv("TORCHELASTIC_RUN_ID");
}

}  // namespace
}  // namespace trestle
