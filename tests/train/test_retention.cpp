// Which checkpoints a run removes when it has saved another, and that whatever it did not make
// stays.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "base/file.h"
#include "checkpoint/save_record.h"
#include "errors.h"
#include "formats/yaml.h"
#include "megatron/checkpoint.h"
#include "megatron/integrity.h"
#include "run/retention.h"
#include "run/saver.h"
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
    return remove_old_checkpoints({.run = run, .step = 6, .lineage = lineage_of(config, 6)},
                                  {.newest = newest, .interval = std::nullopt});
  }
  // As that step's checkpoint says it; empty where it does not.
  static std::string lineage_of(const TrainConfig& config, int64_t step) {
    const auto record = save_record(iteration_directory(config.checkpoint.save, step));
    return record ? record->lineage : "";
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

// The line that tells where it is; none where best.json names it.
TEST_F(RetentionTest, ABestThatIsLeftBehindIsTold) {
  TrainConfig config = with_best();
  run(config);
  const int64_t step = best_of(config);
  const auto told = [](const TrainConfig& each) {
    ::testing::internal::CaptureStderr();
    run(each);
    const std::string said = ::testing::internal::GetCapturedStderr();
    const size_t at = said.find("the best checkpoint so far");
    return at == std::string::npos ? "" : said.substr(at, said.find('\n', at) - at);
  };
  const std::string left = iteration_directory(config.checkpoint.save, step).string();
  TrainConfig elsewhere = config;
  elsewhere.checkpoint.load = config.checkpoint.save;
  elsewhere.checkpoint.save = (directory_ / "elsewhere").string();
  elsewhere.train.exit_interval = 3;
  elsewhere.validation.eval_interval = 4;  // none is better yet
  expect_mentions(told(elsewhere), {fmt::format("of step {}, is not in checkpoint.save={}", step,
                                                elsewhere.checkpoint.save),
                                    "but stays in " + left + "; best.json"});
  EXPECT_FALSE(fs::exists(fs::path(elsewhere.checkpoint.save) / "best.json"));
  // Of what lies there nothing says where it came from.
  elsewhere.checkpoint.load = elsewhere.checkpoint.save;
  elsewhere.train.exit_interval = 4;
  const std::string line = told(elsewhere);
  expect_mentions(line, {"is not in checkpoint.save=" + elsewhere.checkpoint.save + "; best.json"});
  TrainConfig in_place = config;
  in_place.checkpoint.load = config.checkpoint.save;
  in_place.train.exit_interval = 3;
  EXPECT_EQ(told(in_place), "");
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
  expect_mentions(lines[0],
                  {"iter_0000004 is kept, and so is every other that does not say which run"});
  expect_mentions(lines[1], {"iter_0000003 is kept: another run made it"});
  expect_mentions(lines[2],
                  {"iter_0000002 is kept: ", "save did not write", "tokenizer/notes.txt"});
  expect_mentions(lines[3], {"iter_0000001 is kept: ", "save did not write", "/notes.txt"});
}

// A run has its lineage from its beginning on, and an equal run has another.
TEST_F(RetentionTest, ALineageIsRandomAndGoesOnWithTheRun) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 2;
  run(config);
  const std::string lineage = lineage_of(config, 2);
  EXPECT_EQ(lineage.size(), 32u);  // 128 bits
  EXPECT_EQ(lineage.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(lineage_of(config, 1), lineage);
  TrainConfig equal = every_step("equal");
  equal.train.exit_interval = 1;
  run(equal);
  EXPECT_EQ(lineage_of(equal, 1).size(), 32u);
  EXPECT_NE(lineage_of(equal, 1), lineage);
  config.checkpoint.load = "auto";
  config.train.exit_interval = 3;
  run(config);
  EXPECT_EQ(lineage_of(config, 3), lineage);
  // A branch in a directory of its own is not the run, nor is another branch that branch.
  TrainConfig branch = every_step("branch"), other = every_step("other");
  for (TrainConfig* each : {&branch, &other}) {
    each->checkpoint.load = config.checkpoint.save;
    each->train.exit_interval = 4;
    run(*each);
    EXPECT_NE(lineage_of(*each, 4), lineage);
  }
  EXPECT_NE(lineage_of(branch, 4), lineage_of(other, 4));
}

// A copy of an equal run's checkpoint is somebody's copy.
TEST_F(RetentionTest, AnEqualRunsCheckpointStays) {
  TrainConfig config = every_step("run");
  config.checkpoint.most_recent_k = 1;
  config.train.exit_interval = 2;
  run(config);
  TrainConfig equal = every_step("equal");
  equal.train.exit_interval = 1;
  run(equal);
  fs::copy(iteration_directory(equal.checkpoint.save, 1),
           iteration_directory(config.checkpoint.save, 1), fs::copy_options::recursive);
  config.checkpoint.load = config.checkpoint.save;
  config.train.exit_interval.reset();
  ::testing::internal::CaptureStderr();
  run(config);
  expect_mentions(::testing::internal::GetCapturedStderr(),
                  {"iter_0000001 is kept: another run made it"});
  EXPECT_EQ(left(config), (Steps{1, 6}));
}

// What somebody keeps of a run under a name of its own kind, or writes into a checkpoint.
TEST_F(RetentionTest, CopiesAndChangedCheckpointsStay) {
  const TrainConfig config = every_step("run");
  run(config);
  const auto iteration = [&](int64_t step) {
    return iteration_directory(config.checkpoint.save, step);
  };
  fs::remove_all(iteration(2));
  fs::copy(iteration(1), iteration(2), fs::copy_options::recursive);
  std::ofstream(iteration(1) / "run_config.yaml", std::ios::app) << "# the good one\n";
  const std::vector<std::string> lines = remove(config, 1);
  EXPECT_EQ(left(config), (Steps{1, 2, 6}));
  ASSERT_EQ(lines.size(), 2u);
  expect_mentions(lines[0], {"iter_0000002 is kept: it is a copy of step 1"});
  expect_mentions(lines[1], {"iter_0000001 is kept: somebody changed ", "run_config.yaml"});
}

// Its checkpoints have no lineage, or the hash that stood in trestle.progress; what it saves now
// has one.
TEST_F(RetentionTest, CheckpointsOfBeforeStayAndThatIsSaidOnce) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 3;
  run(config);
  for (const int64_t step : {1, 2, 3}) {
    const fs::path iteration = iteration_directory(config.checkpoint.save, step);
    Json run_config = read_yaml(iteration / "run_config.yaml");
    if (step == 2) run_config["trestle"]["lineage"] = std::string(64, 'a');
    if (step != 2) run_config.erase("trestle");
    write_text(iteration / "run_config.yaml", dump_yaml(run_config));
    write_integrity(iteration);
  }
  config.checkpoint.load = config.checkpoint.save;
  config.checkpoint.most_recent_k = 1;
  config.train.exit_interval.reset();
  ::testing::internal::CaptureStderr();
  run(config);
  EXPECT_EQ(left(config), (Steps{1, 2, 3, 6}));
  EXPECT_EQ(lineage_of(config, 6).size(), 32u);
  const std::string said = ::testing::internal::GetCapturedStderr();
  const std::string line = "does not say which run made it";
  expect_mentions(said, {"iter_0000003 is kept, and so is every other that " + line});
  EXPECT_EQ(said.find(line), said.rfind(line));
}

// Names that a save may give are not names that it gave.
TEST_F(RetentionTest, OnlyWhatTheSaveIsKnownToHaveWrittenGoes) {
  TrainConfig config = every_step("run");
  config.checkpoint.also_save_hf_checkpoint = true;
  config.peft.scheme = "";
  run(config);
  const auto inside = [&](int64_t step, const std::string& name) {
    return iteration_directory(config.checkpoint.save, step) / name;
  };
  const std::vector<std::string> foreign = {"__9_0.distcp", "hf/model-00001-of-00009.safetensors",
                                            "hf/adapter_model.safetensors",
                                            "tokenizer/special_tokens_map.json"};
  for (size_t i = 0; i < foreign.size(); ++i) {
    const fs::path path = inside(static_cast<int64_t>(i) + 1, foreign[i]);
    ASSERT_FALSE(fs::exists(path)) << path;
    write_text(path, "mine");
  }
  fs::remove(inside(5, kIntegrity));
  const std::vector<std::string> lines = remove(config, 1);
  EXPECT_EQ(left(config), (Steps{1, 2, 3, 4, 5, 6}));
  ASSERT_EQ(lines.size(), 5u);
  expect_mentions(lines[0], {"iter_0000005 is kept: it has no integrity.json"});
  for (size_t i = 0; i < foreign.size(); ++i) {
    expect_mentions(lines[4 - i], {"is kept: its save did not write", "/" + foreign[i]});
    fs::remove(inside(static_cast<int64_t>(i) + 1, foreign[i]));
  }
  write_integrity(inside(5, ""));
  EXPECT_TRUE(remove(config, 1).empty());
  EXPECT_EQ(left(config), (Steps{6}));
  for (const auto& each : fs::directory_iterator(config.checkpoint.save)) {
    EXPECT_FALSE(each.path().filename().string().starts_with(".iter_")) << each.path();
  }
}

// Of adapters, and an export that was made by hand where the run made none.
TEST_F(RetentionTest, AnExportByHandStays) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 3;
  config.checkpoint.also_save_hf_checkpoint = true;
  run(config);
  TrainConfig plain = every_step("plain");
  plain.train.exit_interval = 3;
  run(plain);
  fs::copy(iteration_directory(config.checkpoint.save, 1) / "hf",
           iteration_directory(plain.checkpoint.save, 1) / "hf");
  for (TrainConfig* each : {&config, &plain}) {
    each->checkpoint.load = each->checkpoint.save;
    each->checkpoint.most_recent_k = 1;
    each->train.exit_interval.reset();
    run(*each);
  }
  EXPECT_EQ(left(config), (Steps{6}));
  EXPECT_EQ(left(plain), (Steps{1, 6}));
}

// A save in an old one's place replaces it whole.
TEST_F(RetentionTest, WhatIsAheadIsReplacedWhereItIsTheRunsOwn) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 3;
  run(config);
  const fs::path run_directory = config.checkpoint.save;
  TrainConfig equal = every_step("equal");
  run(equal);
  const fs::path ahead = iteration_directory(run_directory, 4);
  fs::copy(iteration_directory(equal.checkpoint.save, 4), ahead, fs::copy_options::recursive);
  config.checkpoint.load = config.checkpoint.save;
  config.train.exit_interval.reset();
  EXPECT_REFUSED(Trainer{config}, "iter_0000004 is of another run");
  fs::remove_all(ahead);
  fs::copy(iteration_directory(run_directory, 3), ahead, fs::copy_options::recursive);
  write_text(ahead / "tokenizer" / "notes.txt", "mine");
  EXPECT_REFUSED(Trainer{config}, "tokenizer/notes.txt is of no checkpoint");
  fs::remove(ahead / "tokenizer" / "notes.txt");
  run(config);
  EXPECT_EQ(left(config), (Steps{1, 2, 3, 4, 5, 6}));
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
  const std::string lineage = lineage_of(config, 6);
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

// A kill at whichever file of a removal: the next one ends it, and a file of somebody else stays.
TEST_F(RetentionTest, ARemovalIsEndedFromWhereverItWasCut) {
  TrainConfig config = every_step("run");
  config.train.exit_interval = 1;
  config.checkpoint.also_save_hf_checkpoint = true;
  run(config);
  const fs::path run_directory = config.checkpoint.save;
  const fs::path remains = run_directory / ".iter_0000001.removed";
  const auto again = [&] {
    fs::copy(run_directory / "iter_0000001", remains, fs::copy_options::recursive);
  };
  // What says what is in it goes last.
  using Names = std::set<std::string>;
  for (const Names& left : {Names{}, Names{kIntegrity}, Names{kIntegrity, "run_config.yaml"},
                            Names{kIntegrity, "run_config.yaml", "hf", "__0_0.distcp"}}) {
    again();
    for (const auto& each : fs::directory_iterator(remains)) {
      if (!left.contains(each.path().filename())) fs::remove_all(each.path());
    }
    EXPECT_TRUE(remove_remains(run_directory).empty()) << left.size();
    EXPECT_FALSE(fs::exists(remains)) << left.size();
  }
  again();
  write_text(remains / "hf" / "notes.txt", "mine");
  const std::vector<std::string> lines = remove_remains(run_directory);
  ASSERT_EQ(lines.size(), 1u);
  expect_mentions(lines[0], {".iter_0000001.removed is kept: ", "hf/notes.txt"});
  EXPECT_TRUE(fs::exists(remains / "metadata.json"));
}

}  // namespace
}  // namespace trestle
