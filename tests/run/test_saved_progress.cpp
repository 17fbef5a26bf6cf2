// Where a run stands, from a checkpoint that nobody vouches for: what is read as it was written,
// and that nothing else is counted with.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "errors.h"
#include "run/checkpoint.h"
#include "run/saved_progress.h"

namespace trestle {
namespace {

constexpr int64_t kStep = 10, kConsumed = 40;

RunProgress read(const Json& own, const Json& samples = kConsumed, int64_t step = kStep) {
  return progress_in(own, {{"consumed_train_samples", samples}}, step, "run");
}

// That `key` says what it does is one line that names it, its value and what could stand there.
void expect_refused(const std::string& key, const Json& own, const std::string& found) {
  testing::expect_mentions(
      testing::error_of([&] { read(own); }),
      {"checkpoint.load=run: " + key + " is " + found + ", where a run of its steps has "});
}

Json blend(const Json& sample, const Json& taken) {
  return {{"blend_start", {{"sample", sample}, {"taken", taken}}}};
}

TEST(SavedProgress, IsReadAsItWasWritten) {
  const RunProgress all = read({{"skipped", 3},
                                {"skipped_on_end", 1},
                                {"recent_losses", {1.5, 2}},
                                {"best_step", 4},
                                {"best_metric", "m"},
                                {"best_value", 0.5},
                                {"best_measured_on", "on"},
                                {"former_best", {2}},
                                {"schedule_start", 5},
                                {"skipped_before", 2},
                                {"blend_start", {{"sample", 20}, {"taken", {12, 8}}}}});
  EXPECT_EQ(all.step, kStep);
  EXPECT_EQ(all.consumed_samples, kConsumed);
  EXPECT_EQ(all.skipped, 3);
  EXPECT_EQ(all.skipped_on_end, 1);
  EXPECT_EQ(all.recent_losses, (std::vector<double>{1.5, 2}));
  ASSERT_TRUE(all.best);
  EXPECT_EQ(all.best->step, 4);
  EXPECT_EQ(all.best->metric, "m");
  EXPECT_EQ(all.best->value, 0.5);
  EXPECT_EQ(all.best->measured_on, "on");
  EXPECT_EQ(all.former_best, (std::vector<int64_t>{2}));
  EXPECT_EQ(all.updates(), 4);
  EXPECT_EQ(all.blend_start.sample, 20);
  EXPECT_EQ(all.blend_start.taken, (std::vector<int64_t>{12, 8}));
  // Of other sets than before: none gave any yet.
  EXPECT_EQ(read(blend(40, Json::array())).blend_start.sample, 40);
  // What came later is missing in an older one.
  const RunProgress none = read(Json::object());
  EXPECT_EQ(none.blend_start.sample, 0);
  EXPECT_FALSE(none.best);
  EXPECT_EQ(none.updates(), kStep);
}

TEST(SavedProgress, ABlendsStartIsOfTheSamplesThatWereTaken) {
  const Json two = {1, 1};
  const std::string sample = "blend_start.sample", taken = "blend_start.taken";
  const auto numbered = [&](const Json& numbers) {
    Json own = blend(20, two);
    own["blend_start"]["numbers"] = numbers;
    return own;
  };
  EXPECT_EQ(read(numbered({3, 0})).blend_start.numbers, (std::vector<int64_t>{3, 0}));
  expect_refused("blend_start.numbers", numbered({3}), "of 1 sets");
  expect_refused("blend_start.numbers", numbered({3, -1}), "-1");
  expect_refused("blend_start.numbers", numbered({3, 1 << 21}), "2097152");
  expect_refused("blend_start.numbers", numbered(3), "3");
  expect_refused("blend_start", {{"blend_start", 3}}, "3");
  expect_refused("blend_start", {{"blend_start", {1, 2}}}, "[1,2]");
  expect_refused(sample, blend(-1, two), "-1");
  expect_refused(sample, blend(41, two), "41");
  expect_refused(sample, blend(20.0, two), "20.0");
  expect_refused(sample, blend("20", two), "\"20\"");
  expect_refused(sample, blend(true, two), "true");
  expect_refused(sample, blend(std::numeric_limits<uint64_t>::max(), two), "18446744073709551615");
  expect_refused(taken, blend(20, 20), "20");
  expect_refused(taken, blend(20, {{"0", 20}}), "{\"0\":20}");
  expect_refused(taken, blend(20, {-1, 21}), "-1");
  expect_refused(taken, blend(20, {12, 8.5}), "8.5");
  expect_refused(taken, blend(20, {12, nullptr}), "null");
  expect_refused(taken, blend(20, {12, Json::array({8})}), "[8]");
  expect_refused(taken, blend(20, {21, 0}), "21");  // each of them
  expect_refused(taken, blend(20, {12, 9}), "more samples in all");
  expect_refused(taken, blend(20, std::vector<int64_t>(100, 20)), "more samples in all");
  expect_refused(taken, blend(20, std::string(1000, 'a')), "\"" + std::string(63, 'a') + "...");
}

TEST(SavedProgress, OtherNumbersAreOfARunOfItsSteps) {
  expect_refused("skipped", {{"skipped", 11}}, "11");
  expect_refused("skipped", {{"skipped", "x"}}, "\"x\"");
  expect_refused("skipped_on_end", {{"skipped", 1}, {"skipped_on_end", 2}}, "2");
  expect_refused("recent_losses", {{"recent_losses", 1.5}}, "1.5");
  expect_refused("recent_losses", {{"recent_losses", {1.5, "x"}}}, "\"x\"");
  expect_refused("recent_losses", {{"recent_losses", std::vector<double>(21, 1)}}, "21 numbers");
  expect_refused("best_step", {{"best_step", 11}}, "11");
  expect_refused("best_metric", {{"best_step", 1}, {"best_metric", 1}}, "1");
  expect_refused("best_value", {{"best_step", 1}, {"best_value", "1"}}, "\"1\"");
  expect_refused("former_best", {{"former_best", {1, -2}}}, "-2");
  expect_refused("schedule_start", {{"schedule_start", 11}}, "11");
  expect_refused("skipped_before", {{"skipped", 1}, {"skipped_before", 2}}, "2");
  // Seven of the two steps behind 8.
  expect_refused("skipped", {{"skipped", 7}, {"schedule_start", 8}}, "7");
}

TEST(SavedProgress, OlderOnesAreOfWholeBatchesWhereTheirNumbersAre) {
  const Json identity = {{"values", {{"train.global_batch_size", "4"}}}};
  const auto of = [&](const Json& samples) {
    return read({{"schedule_start", 5}, {"identity", identity}}, samples);
  };
  EXPECT_EQ(of(40).began.step, 0);
  EXPECT_EQ(of(40).began.samples, 0);
  EXPECT_EQ(of(40).schedule_samples, 20);
  EXPECT_EQ(of(44).began.step, kStep);
  EXPECT_EQ(of(44).began.samples, 44);
  EXPECT_EQ(of(12).schedule_samples, 12);  // the batch was changed
  const auto said = [&](const Json& samples) {
    return Json{{"schedule_start", 5}, {"schedule_samples", samples}, {"identity", identity}};
  };
  EXPECT_EQ(read(said(7)).schedule_samples, 7);
  expect_refused("schedule_samples", said(41), "41");
}

TEST(SavedProgress, SamplesAreWholeBatches) {
  Json own = {{"began", {{"step", 4}, {"samples", 10}}},
              {"identity",
               {{"values", {{"train.global_batch_size", "5"}, {"dataset.overlong", "error"}}}}}};
  EXPECT_EQ(read(own, 40).consumed_samples, 40);
  EXPECT_EQ(read(own, 40).began.step, 4);
  EXPECT_EQ(read(own, 40).began.samples, 10);
  EXPECT_EQ(read(Json::object(), 40).began.step, kStep);  // older ones do not say it
  EXPECT_EQ(read(Json::object(), 40).began.samples, 40);
  const std::string line = " (10 at step 4, then 6 steps of train.global_batch_size=5)";
  for (const int64_t other : {0, 39, 41}) {
    EXPECT_REFUSED(read(own, other), "consumed_train_samples is " + std::to_string(other) +
                                         ", where a run of its steps has 40" + line);
  }
  Json& values = own["identity"]["values"];
  values["dataset.overlong"] = "drop";
  EXPECT_EQ(read(own, 41).consumed_samples, 41);
  EXPECT_REFUSED(read(own, 39), "has 40 or, as dataset.overlong=drop, more" + line);
  for (const char* batch : {"x", "-5", "5000000", "null", ""}) {
    values["train.global_batch_size"] = batch;
    EXPECT_REFUSED(read(own, 40), "train.global_batch_size is ");
  }
  values["train.global_batch_size"] = "5";
  own["began"] = {{"step", 11}, {"samples", 40}};
  EXPECT_REFUSED(read(own, 40), "began.step is 11");
  own["began"] = 3;
  EXPECT_REFUSED(read(own, 40), "began is 3");
}

TEST(SavedProgress, BatchesAreTheSameBySizeAndByWhatIsDropped) {
  const auto run = [](const char* batch, const char* overlong) {
    return RunIdentity{
        {{"train.global_batch_size", batch}, {"dataset.overlong", overlong}, {"rng.seed", "1"}},
        {},
        {}};
  };
  RunIdentity other = run("5", "drop");
  other.values["rng.seed"] = "2";
  EXPECT_TRUE(takes_same_batches(run("5", "drop"), other));
  EXPECT_FALSE(takes_same_batches(run("5", "drop"), run("6", "drop")));
  EXPECT_FALSE(takes_same_batches(run("5", "drop"), run("5", "error")));
  EXPECT_FALSE(takes_same_batches(RunIdentity{}, run("5", "error")));
}

TEST(SavedProgress, SamplesAreThoseOfItsSteps) {
  const std::vector<std::pair<Json, std::string>> samples = {
      {-1, "-1"}, {1.5, "1.5"}, {"4", "\"4\""}, {nullptr, "null"}, {int64_t{1} << 60, "1152921"}};
  for (const auto& [value, found] : samples) {
    EXPECT_REFUSED(read(Json::object(), value), "consumed_train_samples is " + found);
  }
  for (const int64_t step : {int64_t{-1}, int64_t{1} << 60}) {
    EXPECT_REFUSED(read(Json::object(), 0, step), "its step is " + std::to_string(step));
  }
}

}  // namespace
}  // namespace trestle
