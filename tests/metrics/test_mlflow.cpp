// What of MLflow's run is people's when a run goes on with it: metrics, names and tags that they
// changed, and runs that they deleted or copied. MLflow itself reads it in
// interop/test_trackers.py.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "errors.h"
#include "metrics/log.h"
#include "metrics/mlflow.h"
#include "metrics/mlflow_resume.h"
#include "metrics/scalars.h"
#include "temp_dir.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Mlflow : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    unsetenv("MLFLOW_TRACKING_URI");
    unsetenv("WANDB_PROJECT");
  }

  TrainConfig config(const std::string& run = "run") const {
    TrainConfig config;
    fs::create_directories(directory_ / run);
    config.checkpoint.save = (directory_ / run).string();
    config.logger.mlflow_experiment = "e";
    config.logger.mlflow_tracking_uri = (directory_ / "store").string();
    return config;
  }
  std::string id(const std::string& run = "run") const {
    std::string id = read_text(directory_ / run / "mlflow_run_id.txt");
    id.pop_back();
    return id;
  }
  // The folder of a run, in whatever experiment.
  fs::path folder(const std::string& id) const {
    for (const auto& each : fs::directory_iterator(directory_ / "store")) {
      if (fs::exists(each.path() / id)) return each.path() / id;
    }
    return {};
  }
  static MlflowMeta meta(const fs::path& folder) {
    return MlflowMeta::read(folder / "meta.yaml").value_or(MlflowMeta{});
  }
  // Goes on behind step 2 and ends; what it says.
  static std::string resumed(const TrainConfig& config) {
    ::testing::internal::CaptureStderr();
    MlflowRun::start(config, 2)->finish(MlflowMeta::kFinished);
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(Mlflow, CutsBackWhatRunsWriteAlone) {
  const TrainConfig run = config();
  MlflowRun::start(run, 0)->write(
      3, {{"lm loss", 1}, {"throughput/tflops/device", 1}, {"validation/anls-new", 1}});
  const fs::path metrics = folder(id()) / "metrics";
  const std::string theirs = "1796012235 3.5 7\n1796012236 nan 9";
  for (const char* name : {"human score", "validation/helpfulness", "eval/by hand"}) {
    fs::create_directories((metrics / name).parent_path());
    write_text(metrics / name, theirs);
  }
  resumed(run);
  for (const char* name : {"human score", "validation/helpfulness", "eval/by hand"}) {
    EXPECT_EQ(read_text(metrics / name), theirs) << name;
  }
  for (const char* name : {"lm loss", "throughput/tflops_per_device", "validation/anls-new"}) {
    EXPECT_FALSE(fs::exists(metrics / name)) << name;
  }
}

// Every value that the log writes is known for one of a run's.
TEST_F(Mlflow, KnowsWhatRunsWrite) {
  TrainConfig all = config();
  all.logger.log_throughput_to_tensorboard = all.logger.log_memory_to_tensorboard = true;
  {
    MetricsLog log(all, 0);
    log.write(StepMetrics{.step = 1, .tokens = 1, .seconds = 1, .params_norm = 1});
    for (const char* set : {"", "new.1-b"}) {
      ValidationMetrics validation{.step = 1, .set = set};
      for (const std::string& score : score_names()) validation.scores[score] = 1;
      log.write(validation);
    }
    log.finish(RunEnd::kFinished);
  }
  int64_t files = 0;
  const fs::path metrics = folder(id()) / "metrics";
  for (const auto& each : fs::recursive_directory_iterator(metrics)) {
    if (!each.is_regular_file()) continue;
    ++files;
    const std::string name = each.path().lexically_relative(metrics).string();
    EXPECT_TRUE(is_mlflow_metric_of_runs(name)) << name;
  }
  EXPECT_GE(files, 18 + 2 * (2 + std::ssize(score_names())));
  for (const char* name : {"loss", "lm loss 2", "lm loss validation human", "validation/anlss",
                           "validation/", "validation/anls-", "validation/anls-a b", ""}) {
    EXPECT_FALSE(is_mlflow_metric_of_runs(name)) << name;
  }
}

TEST_F(Mlflow, KeepsTheNameThatSomebodyGaveIt) {
  TrainConfig run = config();
  run.logger.mlflow_run_name = "first";
  run.logger.mlflow_description = "two\nlines";
  run.logger.mlflow_tags = {"team=a", "stage=dev"};
  MlflowRun::start(run, 0);
  const fs::path there = folder(id());
  const auto rename = [&](const std::string& name) {
    MlflowMeta renamed = meta(there);
    renamed.run_name = name;
    write_text(there / "meta.yaml", renamed.yaml());
    write_text(there / "tags" / "mlflow.runName", name);
  };
  // What nobody touched follows the keys.
  TrainConfig second = run;
  second.logger.mlflow_run_name = "second";
  second.logger.mlflow_description = "one";
  second.logger.mlflow_tags = {"team=a", "stage=prod"};
  EXPECT_EQ(resumed(second).find("it stays"), std::string::npos);
  EXPECT_EQ(meta(there).run_name, "second");
  EXPECT_EQ(read_text(there / "tags" / "stage"), "prod");
  EXPECT_EQ(read_text(there / "tags" / "mlflow.note.content"), "one");
  // What somebody changed stays, and that is said.
  rename("best of May");
  write_text(there / "tags" / "team", "b");
  write_text(there / "tags" / "mlflow.note.content", "mine");
  testing::expect_mentions(resumed(run),
                           {"the run's name is 'best of May' there, and not 'first': it stays",
                            "the run's tag team is 'b' there, and not 'a': it stays",
                            "the run's description is 'mine' there, and not 'two lines': it stays",
                            "MLflow: run best of May of e is in"});
  EXPECT_EQ(meta(there).run_name, "best of May");
  EXPECT_EQ(read_text(there / "tags" / "mlflow.runName"), "best of May");
  EXPECT_EQ(read_text(there / "tags" / "team"), "b");
  EXPECT_EQ(read_text(there / "tags" / "mlflow.note.content"), "mine");
  // Without a key for it there is nothing to say.
  TrainConfig unnamed = run;
  unnamed.logger.mlflow_run_name = "";
  unnamed.logger.mlflow_description = "";
  unnamed.logger.mlflow_tags = {};
  EXPECT_EQ(resumed(unnamed).find("it stays"), std::string::npos);
  EXPECT_EQ(meta(there).run_name, "best of May");
  // And meanwhile.
  const auto going = MlflowRun::start(unnamed, 2);
  rename("renamed while it ran");
  going->finish(MlflowMeta::kFinished);
  EXPECT_EQ(meta(there).run_name, "renamed while it ran");
  EXPECT_EQ(id(), there.filename().string());
}

TEST_F(Mlflow, ANameFromTheDirectoryGivesWayToAKey) {
  TrainConfig run = config();
  MlflowRun::start(run, 0);
  run.logger.mlflow_run_name = "named";
  resumed(run);
  EXPECT_EQ(meta(folder(id())).run_name, "named");
}

TEST_F(Mlflow, ADeletedRunStaysDeleted) {
  const TrainConfig run = config();
  MlflowRun::start(run, 0);
  const std::string old = id();
  const auto remove = [&](const fs::path& folder) {
    MlflowMeta deleted = meta(folder);
    deleted.lifecycle_stage = "deleted";
    deleted.deleted_time = 1796012235000;
    write_text(folder / "meta.yaml", deleted.yaml());
    return read_text(folder / "meta.yaml");
  };
  const std::string as_deleted = remove(folder(old));
  testing::expect_mentions(
      resumed(run),
      {"MLflow: run " + old + " was deleted from the experiment e; another run begins"});
  EXPECT_NE(id(), old);
  EXPECT_EQ(read_text(folder(old) / "meta.yaml"), as_deleted);
  EXPECT_EQ(meta(folder(id())).lifecycle_stage, "active");
  // While it runs.
  ::testing::internal::CaptureStderr();
  const auto going = MlflowRun::start(run, 2);
  remove(folder(id()));
  going->finish(MlflowMeta::kFinished);
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"where it was deleted meanwhile"});
  EXPECT_EQ(meta(folder(id())).lifecycle_stage, "deleted");
  EXPECT_EQ(meta(folder(id())).deleted_time, 1796012235000);
  const auto gone = MlflowRun::start(run, 2);
  fs::remove_all(folder(id()));
  ::testing::internal::CaptureStderr();
  gone->finish(MlflowMeta::kFinished);
  testing::expect_mentions(::testing::internal::GetCapturedStderr(),
                           {"was removed from", "nothing is told there"});
}

TEST_F(Mlflow, ACopiedRunDirectoryBeginsARunOfItsOwn) {
  MlflowRun::start(config(), 0);
  const std::string first = id();
  fs::copy(directory_ / "run", directory_ / "copy");
  testing::expect_mentions(
      resumed(config("copy")),
      {fmt::format("MLflow: run {} is that of {}, which checkpoint.save={} is a copy of", first,
                   (directory_ / "run").string(), (directory_ / "copy").string())});
  EXPECT_NE(id("copy"), first);
  EXPECT_EQ(id(), first);
  EXPECT_EQ(resumed(config()).find("another run"), std::string::npos);
  // From here on they are two.
  EXPECT_EQ(resumed(config("copy")).find("another run"), std::string::npos);
  // One that was moved, or is named otherwise, is the run itself.
  fs::rename(directory_ / "run", directory_ / "moved");
  EXPECT_EQ(resumed(config("moved")).find("another run"), std::string::npos);
  EXPECT_EQ(id("moved"), first);
  fs::create_directory_symlink(directory_ / "moved", directory_ / "link");
  EXPECT_EQ(resumed(config("link")).find("another run"), std::string::npos);
  EXPECT_EQ(id("link"), first);
}

// Whoever begins again before a first checkpoint leaves no run that seems to go on for ever.
TEST_F(Mlflow, ARunThatWasKilledBeforeItsFirstCheckpointIsKilled) {
  const TrainConfig run = config();
  const auto began = [&](const TrainConfig& each) {
    ::testing::internal::CaptureStderr();
    MlflowRun::start(each, 0)->write(1, {{"lm loss", 1}});
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(began(run), "");
  const std::string first = id();
  EXPECT_EQ(meta(folder(first)).status, MlflowMeta::kRunning);
  testing::expect_mentions(began(run), {"MLflow: run " + first + " was begun here and killed"});
  EXPECT_NE(id(), first);
  const MlflowMeta ended = meta(folder(first));
  EXPECT_EQ(ended.status, MlflowMeta::kKilled);
  ASSERT_TRUE(ended.end_time);
  EXPECT_GE(*ended.end_time, ended.start_time);
  EXPECT_TRUE(fs::exists(folder(first) / "metrics" / "lm loss"));
  // In whatever experiment it was.
  const std::string second = id();
  TrainConfig other = run;
  other.logger.mlflow_experiment = "f";
  testing::expect_mentions(began(other), {"MLflow: run " + second + " was begun here and killed"});
  EXPECT_EQ(meta(folder(second)).status, MlflowMeta::kKilled);
  // Of a copy it is the original's, which may well run.
  fs::copy(directory_ / "run", directory_ / "copy");
  TrainConfig copy = other;
  copy.checkpoint.save = (directory_ / "copy").string();
  const std::string third = id();
  EXPECT_EQ(began(copy), "");
  EXPECT_EQ(meta(folder(third)).status, MlflowMeta::kRunning);
  // One that ended stays as it ended.
  ::testing::internal::CaptureStderr();
  MlflowRun::start(other, 2)->finish(MlflowMeta::kFailed);
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(began(other), "");
  EXPECT_EQ(meta(folder(third)).status, MlflowMeta::kFailed);
}

TEST_F(Mlflow, ThatRemovedCheckpointsStayIsTold) {
  const auto said = [](const TrainConfig& config) {
    ::testing::internal::CaptureStderr();
    MlflowRun::start(config, 0)->finish(MlflowMeta::kFinished);
    return ::testing::internal::GetCapturedStderr();
  };
  const std::string stays = "what is removed of checkpoint.save stays in ";
  TrainConfig run = config();
  EXPECT_EQ(said(run).find(stays), std::string::npos);
  run.checkpoint.most_recent_k = 2;
  const std::string told = said(run);
  testing::expect_mentions(told, {"checkpoint.most_recent_k=2: " + stays +
                                  (folder(id()) / "artifacts" / "run").string() + ","});
  run.checkpoint.most_recent_k = -1;
  run.checkpoint.save_retain_interval = 5;
  testing::expect_mentions(said(run), {"checkpoint.save_retain_interval=5: " + stays});
  run.logger.mlflow_log_artifacts = false;
  EXPECT_EQ(said(run).find(stays), std::string::npos);
}

TEST_F(Mlflow, AnotherExperimentOrStoreIsTold) {
  const TrainConfig run = config();
  MlflowRun::start(run, 0);
  const std::string first = id();
  TrainConfig other = run;
  other.logger.mlflow_experiment = "f";
  testing::expect_mentions(
      resumed(other),
      {"MLflow: run " + first +
       " is in the experiment e and logger.mlflow_experiment=f; another run begins"});
  const std::string second = id();
  EXPECT_NE(second, first);
  other.logger.mlflow_tracking_uri = (directory_ / "elsewhere").string();
  testing::expect_mentions(resumed(other), {"MLflow: run " + second + " is not in " +
                                            (directory_ / "elsewhere").string()});
}

TEST_F(Mlflow, WhatAKillLeftIsRemoved) {
  TrainConfig run = config();
  MlflowRun::start(run, 0);
  const fs::path there = folder(id());
  const std::string tail = ".tmp-0123456789abcdef";
  const fs::path artifact = there / "artifacts" / "run" / (".iter_0000003" + tail);
  const fs::path metric = there / "metrics" / "throughput" / (".tflops" + tail);
  const fs::path begun = there.parent_path() / ("." + id() + tail);
  fs::create_directories(artifact / "tokenizer");
  fs::create_directories(begun);
  fs::create_directories(metric.parent_path());
  write_text(artifact / "common.pt", "a");
  write_text(metric, "1 2 3\n");
  // Somebody else's, and what has another form.
  const fs::path other = there.parent_path() / (".theirs" + tail);
  const fs::path named = there / "artifacts" / ".notes.tmp-1";
  fs::create_directories(other);
  write_text(named, "b");
  resumed(run);
  for (const fs::path& each : {artifact, metric, begun}) EXPECT_FALSE(fs::exists(each)) << each;
  for (const fs::path& each : {other, named}) EXPECT_TRUE(fs::exists(each)) << each;
  // One that begins anew in the same directory, too.
  fs::create_directories(artifact);
  MlflowRun::start(run, 0);
  EXPECT_FALSE(fs::exists(artifact));
}

}  // namespace
}  // namespace trestle
