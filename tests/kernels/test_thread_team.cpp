// Every part of a piece of work is made once, whoever else is at work.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "cpu/thread_team.h"

namespace trestle {
namespace {

void expect_each_once(ThreadTeam& team, int64_t parts) {
  std::vector<std::atomic<int>> made(static_cast<size_t>(parts));
  team.run(parts, [&](int64_t part) { ++made[static_cast<size_t>(part)]; });
  for (const auto& each : made) ASSERT_EQ(each, 1);
}

TEST(ThreadTeam, MakesEveryPartOnce) {
  ThreadTeam team(4);
  for (int i = 0; i < 20000; ++i) expect_each_once(team, i % 40);
}

TEST(ThreadTeam, WakesThreadsThatSleep) {
  ThreadTeam team(3);
  std::atomic<int> others{0};
  const auto caller = std::this_thread::get_id();
  for (int i = 0; i < 20 && others == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    team.run(64, [&](int64_t) {
      if (std::this_thread::get_id() != caller) ++others;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
  }
  EXPECT_GT(others, 0);
}

// Several ranks in one process ask for the same team.
TEST(ThreadTeam, ServesSeveralCallers) {
  ThreadTeam team(2);
  std::vector<std::jthread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      for (int k = 0; k < 3000; ++k) expect_each_once(team, 7);
    });
  }
}

TEST(ThreadTeam, OfOneIsTheCaller) {
  ThreadTeam team(1);
  EXPECT_EQ(team.threads(), 1);
  expect_each_once(team, 5);
}

}  // namespace
}  // namespace trestle
