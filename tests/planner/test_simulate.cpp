// Schedules and failures that are played through, against what is known of them in closed form.
#include <gtest/gtest.h>

#include "errors.h"
#include "planner/simulate.h"
#include "planner/testing.h"

namespace trestle {
namespace {

std::vector<StageTime> alike(int64_t stages) {
  return std::vector<StageTime>(static_cast<size_t>(stages), {1, 2});
}

TEST(Schedule, OfStagesAlikeTakesWhatTheFormulaSays) {
  for (const int64_t p : {1, 2, 4, 8}) {
    for (const int64_t m : {p, 2 * p, 7 * p, 40 * p}) {  // the last is not played to its end
      const Schedule plain = simulate_schedule({.pipeline = p}, m, alike(p), 0);
      EXPECT_NEAR(plain.seconds, static_cast<double>(3 * (m + p - 1)), 1e-6) << p << " " << m;
      for (const double idle : plain.idle) {
        EXPECT_NEAR(idle, static_cast<double>(p - 1) / static_cast<double>(m + p - 1), 1e-9);
      }
      if (p == 1) continue;
      const Topology chunks{.pipeline = p, .virtual_pipeline = 3};
      EXPECT_NEAR(simulate_schedule(chunks, m, alike(p), 0).seconds,
                  3 * (static_cast<double>(m) + static_cast<double>(p - 1) / 3), 1e-6)
          << p << " " << m;
    }
  }
}

TEST(Schedule, WaitsForTheSlowestStageAndForWhatIsSent) {
  std::vector<StageTime> stages = alike(4);
  stages[3] = {2, 4};
  const Schedule uneven = simulate_schedule({.pipeline = 4}, 8, stages, 0);
  EXPECT_GE(uneven.seconds, 8 * 6 + 3 * 3);
  EXPECT_LT(uneven.idle[3], uneven.idle[0]);
  // There and back through three borders at least.
  EXPECT_GE(simulate_schedule({.pipeline = 4}, 8, alike(4), 0.5).seconds, 3 * 11 + 6 * 0.5);
}

TEST(Failures, PlayedTakeWhatDalySays) {
  const Failures failures{.mean_time = 3600, .save = 60, .restart = 300};
  const double work = 200 * 3600;
  for (const double interval : {200.0, 660.0, 3000.0}) {
    const PlayedRun mean = simulate_failures(failures, work, interval, 7, 400);
    EXPECT_NEAR(mean.seconds / expected_seconds(failures, work, interval), 1, 0.01) << interval;
    EXPECT_NEAR((work + mean.lost + mean.saving + mean.restarting) / mean.seconds, 1, 1e-9);
    EXPECT_NEAR(mean.failures / (mean.seconds / failures.mean_time), 1, 0.02);
  }
}

TEST(Failures, TheIntervalThatLosesLeastIsDalys) {
  const Failures failures{.mean_time = 3600, .save = 60, .restart = 300};
  EXPECT_NEAR(young_interval(failures), 657.3, 0.1);
  const double best = daly_interval(failures);
  const double least = expected_seconds(failures, 1e6, best);
  for (const double factor : {0.8, 0.9, 1.1, 1.25}) {
    EXPECT_LT(least, expected_seconds(failures, 1e6, factor * best)) << factor;
  }
  // A save that takes longer than a run lives.
  EXPECT_EQ(daly_interval({.mean_time = 100, .save = 300, .restart = 0}), 100);
}

TEST(Failures, ARunThatNeverGetsOnIsTold) {
  EXPECT_REFUSED(simulate_failures({.mean_time = 1, .save = 100, .restart = 1000}, 100, 100, 1, 1),
                 "fails every 1 s", "never ends");
  EXPECT_REFUSED(simulate_failures({.mean_time = 1, .save = 0, .restart = 0}, 100, 100, 1, 1),
                 "never ends");
}

TEST(Simulated, ARunThatCannotEndIsALine) {
  TrainConfig config = testing::small_run("", "bf16");
  config.checkpoint.save_interval = 1'000'000;
  config.train.train_iters = 1'000'000;
  const PlannedRun run = testing::planned(testing::small_model(false), config);
  Machine machine = usual_cards(1);
  machine.flops.value = 1e9;
  const std::vector<Candidate> all = all_topologies(run, machine, {});
  const auto lines = simulated(run, all.front(), machine, {.mean_hours = 1});
  testing::expect_mentions(lines.back(), {"save_interval 1000000", "never ends", "60 min"});
}

TEST(Simulated, SaysScheduleAndSaveInterval) {
  TrainConfig config = testing::small_run("", "bf16");
  config.train.global_batch_size = 8;
  const PlannedRun run = testing::planned(testing::small_model(false), config);
  const Machine machine = usual_cards(8);
  const std::vector<Candidate> all = all_topologies(run, machine, {.pipeline = 2});
  const std::vector<StageTime> times = stage_times(run, all.front().topology, machine);
  ASSERT_EQ(times.size(), 2);
  EXPECT_GT(times[0].backward, times[0].forward);
  std::string text;
  for (const std::string& line : simulated(run, all.front(), machine, {})) text += line + "\n";
  testing::expect_mentions(text, {"stages wait", "Daly", "checkpoint.save_interval", "failures"});
}

}  // namespace
}  // namespace trestle
