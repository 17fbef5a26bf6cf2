// Keys that act at some steps alone: refused where a run is too short for them, told of where this
// part of it is.
#include <gtest/gtest.h>

#include "errors.h"
#include "recipes/effects.h"
#include "recipes/recipes.h"
#include "recipes/schedule.h"

namespace trestle {
namespace {

using testing::expect_mentions;
using testing::refusal_of;
using Keys = std::vector<Assignment>;

SettledRun run_of(const Keys& keys) {
  SettledRun run = settle("demo_config", {}, keys);
  run.config.validate_values();
  return run;
}

// As `trestle finetune` and the trainer say it, of a run that has made `made` steps.
std::vector<std::string> told(const Keys& keys, int64_t made = 0, bool has_checkpoints = false) {
  const SettledRun run = run_of(keys);
  refuse_without_effect(run);
  return idle_keys(run.config, run.asked.keys, made, has_checkpoints);
}

Keys traced(const std::string& start, const std::string& end, Keys more = {}) {
  more.insert(more.end(), {{"profiling.use_pytorch_profiler", "true"},
                           {"profiling.profile_step_start", start},
                           {"profiling.profile_step_end", end},
                           {"train.train_iters", "20"}});
  return more;
}

TEST(Effects, StepsBehindTheEndAreRefused) {
  const auto refused = [](const Keys& keys) {
    return refusal_of([&] { refuse_without_effect(run_of(keys)); });
  };
  expect_mentions(refused(traced("21", "23")),
                  {"profiling.use_pytorch_profiler=true has no effect: nothing is traced "
                   "(profiling.profile_step_start=21): first at step 21, and "
                   "train.train_iters=20"});
  EXPECT_EQ(refused(traced("20", "23")), std::nullopt);
  // The recipe's own window, which begins at 10.
  expect_mentions(refused({{"profiling.use_pytorch_profiler", "true"},
                           {"train.train_iters", "9"},
                           {"scheduler.lr_warmup_iters", "1"}}),
                  {"profiling.use_pytorch_profiler=true has no effect", "first at step 10"});
  expect_mentions(
      refused({{"validation.eval_interval", "5"}, {"validation.start_eval_at_iter", "121"}}),
      {"validation.start_eval_at_iter=121 has no effect", "train.train_iters=120"});
  expect_mentions(
      refused({{"validation.eval_interval", "5"}, {"validation.start_eval_at_iter", "5"}}),
      {"validation.start_eval_at_iter=5 has no effect: validation.eval_interval=5 comes no "
       "sooner"});
  EXPECT_EQ(refused({{"validation.eval_interval", "5"}, {"validation.start_eval_at_iter", "6"}}),
            std::nullopt);
  // How long it is is said by the rows.
  const SettledRun epochs =
      run_of({{"profiling.use_pytorch_profiler", "true"}, {"train.num_epochs", "1"}});
  EXPECT_NO_THROW(refuse_without_effect(epochs));
  TrainConfig settled = epochs.config;
  settled.train.train_iters = 3;
  EXPECT_REFUSED(refuse_behind_the_end(settled, epochs.asked.keys),
                 "profiling.use_pytorch_profiler=true has no effect");
}

TEST(Effects, CheckpointsThatAreAllKeptAreNotLimited) {
  const auto refused = [](const Keys& keys) {
    return refusal_of([&] { refuse_without_effect(run_of(keys)); });
  };
  const auto keys = [](const char* newest, const char* retained) {
    return Keys{{"checkpoint.most_recent_k", newest},
                {"checkpoint.save_retain_interval", retained}};
  };
  expect_mentions(refused(keys("1", "1")),
                  {"checkpoint.most_recent_k=1 has no effect: checkpoint.save_retain_interval=1"});
  expect_mentions(refused({{"checkpoint.save_retain_interval", "1"}}),
                  {"checkpoint.save_retain_interval=1 has no effect: every checkpoint is kept"});
  expect_mentions(refused(keys("-1", "7")), {"checkpoint.most_recent_k=-1 has no effect"});
  EXPECT_EQ(refused(keys("1", "7")), std::nullopt);
  expect_mentions(refused({{"checkpoint.hf_source_path", "x"}}),
                  {"so nothing is exported; leave it out, or set "
                   "checkpoint.also_save_hf_checkpoint=true"});
  EXPECT_EQ(told(keys("1", "7")).size(), 0u);
  const auto all_kept = told(keys("2", "30"));  // of a save_interval of 60
  ASSERT_EQ(all_kept.size(), 1u);
  expect_mentions(all_kept[0], {"checkpoint.most_recent_k=2: each checkpoint of "
                                "checkpoint.save_interval=60 is kept"});
}

TEST(Effects, StepsThatThisPartOfARunDoesNotMakeAreTold) {
  const auto one = [](const Keys& keys, int64_t made, const std::string& line) {
    const auto lines = told(keys, made);
    ASSERT_EQ(lines.size(), 1u) << line << fmt::format(" {}", lines.size());
    EXPECT_EQ(lines[0], line);
  };
  const Keys stopped = {{"train.exit_interval", "8"}};
  EXPECT_TRUE(told({}).empty());
  EXPECT_TRUE(told(stopped).empty());
  EXPECT_TRUE(told(traced("8", "9", stopped)).empty());
  one(traced("9", "11", stopped), 0,
      "profiling.profile_step_start=9: nothing is traced: first at step 9, and "
      "train.exit_interval=8 stops at 8");
  EXPECT_TRUE(told(traced("9", "11", stopped), 8).empty());  // that goes on to 16
  one(traced("9", "11", stopped), 10,
      "profiling.profile_step_start=9: nothing is traced: step 10 is made already");
  one({{"validation.eval_interval", "10"}, {"train.exit_interval", "8"}}, 0,
      "validation.eval_interval=10: nothing is validated: first at step 10, and "
      "train.exit_interval=8 stops at 8");
  // The last step is validated, and saved.
  one({{"validation.eval_interval", "500"}}, 0,
      "validation.eval_interval=500: nothing is validated before the end: first at step 500, and "
      "train.train_iters=120");
  EXPECT_TRUE(told({{"validation.eval_interval", "120"}}).empty());
  one({{"checkpoint.save_interval", "121"}}, 0,
      "checkpoint.save_interval=121: nothing is saved before the end: first at step 121, and "
      "train.train_iters=120");
  EXPECT_TRUE(told({{"checkpoint.save_interval", "120"}}).empty());
  one({{"logger.tensorboard_log_interval", "121"}}, 0,
      "logger.tensorboard_log_interval=121: TensorBoard, W&B and MLflow are told of no step: first "
      "at step 121, and train.train_iters=120");
  EXPECT_TRUE(told({{"logger.tensorboard_log_interval", "120"}}).empty());
  one({{"logger.tensorboard_log_interval", "50"}}, 100,
      "logger.tensorboard_log_interval=50: TensorBoard, W&B and MLflow are told of no step: first "
      "at step 150, and train.train_iters=120");
  one({{"logger.log_interval", "200"}}, 0,
      "logger.log_interval=200: no step has a progress line: first at step 200, and "
      "train.train_iters=120");
  one({{"checkpoint.async_save", "true"}, {"checkpoint.save_interval", "120"}}, 0,
      "checkpoint.async_save=true: no step is made while a checkpoint is written: first at step "
      "121, and train.train_iters=120");
  EXPECT_TRUE(told({{"checkpoint.async_save", "true"}}).empty());
  EXPECT_TRUE(told({{"logger.log_interval", "200"}}, 120).empty());  // nothing is done at all
}

TEST(Effects, WhatARunIsTooShortForIsTold) {
  const auto starts = [](const Keys& keys, const std::string& start) {
    const auto lines = told(keys);
    ASSERT_EQ(lines.size(), 1u) << start;
    EXPECT_TRUE(lines[0].starts_with(start)) << lines[0];
  };
  starts({{"train.exit_interval", "121"}}, "train.exit_interval=121: it stops nothing: first at");
  EXPECT_TRUE(told({{"train.exit_interval", "120"}}).empty());
  starts({{"train.loss_spike_factor", "2"}, {"train.train_iters", "20"}},
         "train.loss_spike_factor=2: no loss has 20 before it to be measured by: first at step 21");
  EXPECT_TRUE(told({{"train.loss_spike_factor", "2"}, {"train.train_iters", "21"}}).empty());
  starts({{"checkpoint.most_recent_k", "2"}, {"checkpoint.save_retain_interval", "121"}},
         "checkpoint.save_retain_interval=121: it keeps nothing beside what");
  starts({{"checkpoint.save_retain_interval", "121"}},
         "checkpoint.save_retain_interval=121: it keeps nothing beside the last checkpoint: first "
         "at step 121, and train.train_iters=120");
  starts({{"checkpoint.most_recent_k", "2"}},  // of a save_interval of 60
         "checkpoint.most_recent_k=2: no checkpoint goes: the run saves 2, by "
         "checkpoint.save_interval=60 and train.train_iters=120");
  EXPECT_TRUE(told({{"checkpoint.most_recent_k", "1"}}).empty());
  // Behind a step that was made elsewhere, and beside checkpoints that are there.
  const auto rest = told({{"checkpoint.most_recent_k", "1"}}, 60);
  ASSERT_EQ(rest.size(), 1u);
  expect_mentions(rest[0], {"the run saves 1 behind step 60, by"});
  EXPECT_TRUE(told({{"checkpoint.most_recent_k", "1"}}, 59).empty());
  EXPECT_TRUE(told({{"checkpoint.most_recent_k", "2"}}, 0, true).empty());
  const auto wsd = [](const char* last) {
    return Keys{{"scheduler.lr_decay_style", "WSD"},
                {"scheduler.lr_decay_iters", "200"},
                {"scheduler.lr_wsd_decay_iters", last}};
  };
  starts(wsd("81"), "scheduler.lr_wsd_decay_iters=81: the rate never falls: first at step 121");
  EXPECT_TRUE(told(wsd("82")).empty());
  starts({{"scheduler.lr_decay_style", "linear"},
          {"scheduler.lr_decay_iters", "200"},
          {"scheduler.lr_warmup_iters", "150"}},
         "scheduler.lr_decay_style=linear: the rate only rises: first at step 152");
}

// Intervals and limits of a recipe, which is for longer runs, are told of where somebody typed
// them.
TEST(Effects, WhatNobodyAskedForIsNotToldOf) {
  SettledRun run = run_of({{"train.train_iters", "12"}});
  run.config.checkpoint.most_recent_k = 5;
  run.config.validation.eval_interval = 40;
  EXPECT_EQ(idle_keys(run.config, run.asked.keys, 0), std::vector<std::string>{});
  for (const char* key :
       {"checkpoint.save_interval", "checkpoint.most_recent_k", "validation.eval_interval"}) {
    const auto lines = idle_keys(run.config, {key}, 0);
    ASSERT_EQ(lines.size(), 1u) << key;
    EXPECT_TRUE(lines[0].starts_with(key)) << lines[0];
  }
}

// What the schedule itself says of these steps.
TEST(Effects, RatesFallWhereItIsSaid) {
  TrainConfig config = recipe("demo_config");
  config.scheduler.lr_decay_style = "WSD";
  config.scheduler.lr_decay_iters = 200;
  config.scheduler.lr_wsd_decay_iters = 81;
  EXPECT_EQ(learning_rate(config, 120), config.optimizer.lr);
  EXPECT_LT(learning_rate(config, 121), config.optimizer.lr);
  config.scheduler.lr_decay_style = "linear";
  config.scheduler.lr_warmup_iters = 150;
  EXPECT_LT(learning_rate(config, 150), learning_rate(config, 151));
  EXPECT_LT(learning_rate(config, 152), learning_rate(config, 151));
}

}  // namespace
}  // namespace trestle
