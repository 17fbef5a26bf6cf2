// Ranks that look after each other by their store.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "errors.h"
#include "parallel/journal.h"
#include "parallel/watchdog.h"

namespace trestle {
namespace {

using std::chrono::milliseconds;
using testing::expect_mentions;

// Some of the ranks of a run, and what their watchdogs found.
class Watched {
 public:
  explicit Watched(int64_t size) : size_(size), store_(c10::make_intrusive<c10d::HashStore>()) {}

  void start(int64_t rank,
             WatchdogLimits limits = {milliseconds(10), milliseconds(300), milliseconds(60000)}) {
    journals_[rank] = std::make_shared<Journal>();
    dogs_[rank] = std::make_unique<Watchdog>(store_, rank, size_, journals_[rank], limits,
                                             [this, rank](const std::string& report) {
                                               const std::scoped_lock lock(mutex_);
                                               found_[rank] = report;
                                             });
  }
  void end(int64_t rank) { dogs_.erase(rank); }
  Journal& journal(int64_t rank) { return *journals_.at(rank); }
  // What was found until `count` ranks have found something, for as long as that may take.
  std::map<int64_t, std::string> found(size_t count) {
    for (int i = 0; i < 1000; ++i) {
      {
        const std::scoped_lock lock(mutex_);
        if (found_.size() >= count) return found_;
      }
      std::this_thread::sleep_for(milliseconds(5));
    }
    return found_;
  }
  std::map<int64_t, std::string> found_now() {
    const std::scoped_lock lock(mutex_);
    return found_;
  }

 private:
  int64_t size_;
  c10::intrusive_ptr<c10d::HashStore> store_;
  std::mutex mutex_;
  std::map<int64_t, std::string> found_;
  std::map<int64_t, std::shared_ptr<Journal>> journals_;
  std::map<int64_t, std::unique_ptr<Watchdog>> dogs_;
};

TEST(Watchdog, TellsOfASilentRankOnceWithWhatEveryRankDoes) {
  Watched ranks(4);
  for (const int64_t rank : {0, 1, 3}) ranks.start(rank);  // 2 never comes
  ranks.journal(1).at_step(7, "12, 13");
  ranks.journal(1).begin("all_reduce of [4] over data");
  const auto found = ranks.found(3);
  ASSERT_EQ(found.size(), 3);
  std::string report;
  for (const auto& [rank, line] : found) {
    if (line.empty()) continue;
    EXPECT_EQ(report, "") << "told twice";
    report = line;
  }
  expect_mentions(report, {"rank 2 of 4 has said nothing", "rank 0: before the first step",
                           "rank 1: step 7, rows 12, 13, in all_reduce of [4] over data (its "
                           "collective 1)",
                           "rank 2: never seen"});
}

TEST(Watchdog, TellsOfACollectiveThatTakesTooLong) {
  Watched ranks(2);
  ranks.start(1);
  ranks.start(0, {milliseconds(10), milliseconds(60000), milliseconds(200)});
  ranks.journal(0).begin("all_gather of [2, 2] over tensor");
  const auto found = ranks.found(2);
  ASSERT_EQ(found.size(), 2);
  expect_mentions(found.at(0), {"rank 0 of 2 has waited", "in a collective",
                                "all_gather of [2, 2] over tensor"});
  EXPECT_EQ(found.at(1), "");
}

TEST(Watchdog, LetsRanksEndAndWorkFor) {
  Watched ranks(3);
  for (const int64_t rank : {0, 1, 2}) ranks.start(rank);
  ranks.end(1);
  ranks.journal(0).begin("broadcast of [1] over world");
  std::this_thread::sleep_for(milliseconds(700));  // more than the silence that is borne
  EXPECT_TRUE(ranks.found_now().empty());
}

}  // namespace
}  // namespace trestle
