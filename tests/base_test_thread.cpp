// Work beside its caller: it is done, waited for, and what it throws arrives.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "base/thread.h"

namespace trestle {
namespace {

TEST(RunBeside, GoesOnWhileTheCallerDoes) {
  std::atomic<bool> caller_went_on = false, done = false;
  std::future<void> work = run_beside([&] {
    while (!caller_went_on) std::this_thread::yield();
    done = true;
  });
  caller_went_on = true;
  work.get();
  EXPECT_TRUE(done);
}

TEST(RunBeside, ThrowsWhenAskedFor) {
  std::future<void> work = run_beside([] { throw std::range_error("a bad sum"); });
  EXPECT_THROW(work.get(), std::range_error);
}

TEST(RunBeside, IsWaitedForWhereItIsLeftBehind) {
  std::atomic<bool> done = false;
  try {
    const std::future<void> work = run_beside([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      done = true;
    });
    throw std::range_error("the copy failed");
  } catch (const std::range_error&) {
    EXPECT_TRUE(done);
  }
}

}  // namespace
}  // namespace trestle
