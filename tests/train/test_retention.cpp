// Which checkpoints a run removes when it has saved another, and that whatever it did not make
// stays.
#include <gtest/gtest.h>

#include "base/file.h"
#include "errors.h"
#include "train/retention.h"
#include "train/saver.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;
using testing::refusal_of;

using Steps = std::vector<int64_t>;

class RetentionTest : public testing::RunTest {
 protected:
  // Of adapters: a checkpoint behind each of six steps.
  TrainConfig every_step(const std::string& name) const {
    TrainConfig config = this->config(name, "lora");
    config.model.params_dtype = "float32";
    config.checkpoint.save_interval = 1;
    return config;
  }
  // Stopped behind step 2, of validations behind each of which the best is kept beside the last.
  TrainConfig with_best() const {
    TrainConfig config = every_step("run");
    config.checkpoint.most_recent_k = 1;
    config.train.exit_interval = 2;
    config.validation.path_or_dataset = config.dataset.path_or_dataset;
    config.validation.eval_interval = 1;
    config.validation.best_metric = "valid_loss";
    return config;
  }
  static int64_t best_of(const TrainConfig& config) {
    return read_json(fs::path(config.checkpoint.save) / "best.json")["step"].get<int64_t>();
  }
  static Steps left(const TrainConfig& config) { return iterations_of(config.checkpoint.save); }
  // The lines of one removal behind the last step.
  static std::vector<std::string> remove(const TrainConfig& config, int64_t newest) {
    const fs::path run = config.checkpoint.save;
    return remove_old_checkpoints(
        {.run = run, .step = 6, .lineage = lineage_of(iteration_directory(run, 6))},
        {.newest = newest, .interval = std::nullopt});
  }
};

TEST_F(RetentionTest, TheNewestStay) {
  TrainConfig config = every_step("run");
  run(config);
  EXPECT_EQ(left(config), (Steps{1, 2, 3, 4, 5, 6}));  // -1, the default
  config = every_step("two");
  config.checkpoint.most_recent_k = 2;
  run(config);
  EXPECT_EQ(left(config), (Steps{5, 6}));
  EXPECT_EQ(MegatronCheckpoint(config.checkpoint.save).iteration(), 6);
}

// As Megatron-LM has it: the last, and multiples.
TEST_F(RetentionTest, MultiplesStay) {
  TrainConfig config = every_step("alone");
  config.checkpoint.save_retain_interval = 4;
  config.train.exit_interval = 5;
  run(config);
  EXPECT_EQ(left(config), (Steps{4, 5}));
  config = every_step("both");
  config.checkpoint.save_retain_interval = 2;
  config.checkpoint.most_recent_k = 2;
  run(config);
  EXPECT_EQ(left(config), (Steps{2, 4, 5, 6}));
}

TEST_F(RetentionTest, NoneIsRefused) {
  TrainConfig config = every_step("run");
  config.checkpoint.most_recent_k = 0;
  EXPECT_REFUSED(config.validate(), "checkpoint.most_recent_k=0 would keep no checkpoint");
  config.checkpoint.most_recent_k = -2;
  EXPECT_REFUSED(config.validate(), "checkpoint.most_recent_k=-2: must be");
}

TEST_F(RetentionTest, TheBestStays) {
  TrainConfig config = with_best();
  run(config);
  const int64_t step = best_of(config);
  // Without validation none is better.
  config.train.exit_interval.reset();
  config.checkpoint.load = config.checkpoint.save;
  config.validation = {};
  config.validation.eval_interval = 0;
  run(config);
  EXPECT_EQ(left(config), (Steps{step, 6}));
  EXPECT_EQ(best_of(config), step);
}

// Its number is compared with none of those to come, but it is no worse for that.
TEST_F(RetentionTest, ABestThatWasMeasuredOtherwiseStays) {
  TrainConfig config = with_best();
  run(config);
  const int64_t step = best_of(config);
  config.checkpoint.load = config.checkpoint.save;
  config.validation.eval_iters = 1;
  for (const int64_t end : {4, 6}) {  // and whoever goes on from there knows it too
    config.train.exit_interval = end;
    run(config);
    EXPECT_GT(best_of(config), step);
    EXPECT_EQ(left(config).front(), step);
  }
}

// A kill in the middle of a save leaves it under a name of its own, as large as a checkpoint.
TEST_F(RetentionTest, WhatAKillLeftOfASaveGoes) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 1;
  run(config);
  const fs::path run_directory = config.checkpoint.save;
  const fs::path cut = run_directory / ".iter_0000002.tmp-0123456789abcdef";
  const fs::path foreign = run_directory / ".iter_0000002.tmp-mine";
  for (const fs::path& each : {cut, foreign}) {
    fs::create_directories(each);
    write_text(each / "__0_0.distcp", "half");
  }
  remove_remains(run_directory);
  EXPECT_FALSE(fs::exists(cut));
  EXPECT_TRUE(fs::exists(foreign / "__0_0.distcp"));
}

// Also where the run went on with other keys, which its checkpoints then say.
TEST_F(RetentionTest, AResumedRunKnowsItsOwn) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 3;
  run(config);
  config.train.exit_interval.reset();
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.most_recent_k = 1;
  config.peft.alpha = 7;
  Trainer(config, {.keys = {}, .may_change = {"peft.alpha"}}).run();
  EXPECT_EQ(left(config), (Steps{6}));
}

TEST_F(RetentionTest, WhatTheRunDidNotMakeStays) {
  const TrainConfig config = every_step("run");
  run(config);
  TrainConfig other = every_step("other");
  other.rng.seed = 5;
  run(other);
  const fs::path directory = config.checkpoint.save;
  const auto iteration = [&](int64_t step) { return iteration_directory(directory, step); };
  write_text(iteration(1) / "notes.txt", "mine");
  fs::create_directories(iteration(2) / "tokenizer");
  write_text(iteration(2) / "tokenizer" / "notes.txt", "mine");
  fs::remove_all(iteration(3));
  fs::copy(iteration_directory(other.checkpoint.save, 3), iteration(3),
           fs::copy_options::recursive);
  fs::remove_all(iteration(4));
  fs::copy("fixtures/megatron/lora/iter_0000002", iteration(4), fs::copy_options::recursive);
  const std::vector<std::string> lines = remove(config, 1);
  EXPECT_EQ(left(config), (Steps{1, 2, 3, 4, 6}));
  ASSERT_EQ(lines.size(), 4u);  // newest first
  expect_mentions(lines[0], {"iter_0000004 is kept: ", "does not say which run made it"});
  expect_mentions(lines[1], {"iter_0000003 is kept: another run made it"});
  expect_mentions(lines[2],
                  {"iter_0000002 is kept: ", "tokenizer/notes.txt is nothing that a run"});
  expect_mentions(lines[3], {"iter_0000001 is kept: ", "notes.txt is nothing that a run writes"});
}

TEST_F(RetentionTest, LinksStay) {
  const TrainConfig config = every_step("run");
  run(config);
  const fs::path first = iteration_directory(config.checkpoint.save, 1);
  fs::rename(first, directory_ / "elsewhere");
  fs::create_directory_symlink(directory_ / "elsewhere", first);
  const std::vector<std::string> lines = remove(config, 1);
  ASSERT_EQ(lines.size(), 1u);
  expect_mentions(lines[0], {"iter_0000001 is kept: it is no directory"});
  EXPECT_TRUE(fs::exists(directory_ / "elsewhere" / "metadata.json"));
}

// What a kill leaves behind a step that is made again is no newer checkpoint.
TEST_F(RetentionTest, StepsAheadDoNotCount) {
  const TrainConfig config = every_step("run");
  run(config);
  const fs::path run = config.checkpoint.save;
  const std::string lineage = lineage_of(iteration_directory(run, 6));
  remove_old_checkpoints({.run = run, .step = 4, .lineage = lineage},
                         {.newest = 2, .interval = {}});
  EXPECT_EQ(left(config), (Steps{3, 4, 5, 6}));
}

// A kill behind the rename: what is left is no checkpoint for anybody, and the next run ends it.
TEST_F(RetentionTest, RemainsAreRemoved) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 3;
  run(config);
  const fs::path run_directory = config.checkpoint.save;
  const fs::path remains = run_directory / ".iter_0000002.removed";
  fs::rename(run_directory / "iter_0000002", remains);
  write_text(run_directory / ".iter_notes.removed", "mine");
  EXPECT_EQ(left(config), (Steps{1, 3}));
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.most_recent_k = 1;
  config.train.exit_interval.reset();
  run(config);
  EXPECT_EQ(left(config), (Steps{6}));
  EXPECT_FALSE(fs::exists(remains));
  EXPECT_TRUE(fs::exists(run_directory / ".iter_notes.removed"));
}

}  // namespace
}  // namespace trestle
