// Runs of many ranks are saved by all of them and gone on with by any number.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <sstream>

#include "base/file.h"
#include "errors.h"
#include "megatron/checkpoint.h"
#include "megatron/flat_state.h"
#include "megatron/integrity.h"
#include "model/ministral3.h"
#include "parallel/world.h"
#include "run/checkpoint.h"
#include "run/run_directory.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::expect_mentions;

class SavedByRanks : public testing::RunTest {
 protected:
  TrainConfig config(const std::string& name, const std::string& scheme = "") const {
    TrainConfig config = RunTest::config(name, scheme);
    config.model.params_dtype = "float32";
    config.train.global_batch_size = 4;
    config.train.micro_batch_size = 1;
    config.train.train_iters = 6;
    config.checkpoint.save_interval = 3;
    config.optimizer.lr = 1e-4;
    return config;
  }

  // The losses that the first rank tells.
  static std::vector<double> run(const TrainConfig& config, int64_t ranks) {
    std::vector<double> losses;
    run_ranks(ranks, [&](const World& world) {
      Trainer trainer(config, {}, world);
      trainer.run([&](const StepMetrics& metrics) {
        if (world.is_first()) losses.push_back(metrics.loss);
      });
    });
    return losses;
  }

  // By `ranks` to step 3, then by every other number.
  void expect_exact_resume(TrainConfig config, int64_t ranks) {
    const std::vector<double> whole = run(config, ranks);
    ASSERT_EQ(whole.size(), 6u);
    const fs::path saved = iteration_directory(config.checkpoint.save, 3);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(is_there(saved / fmt::format("__{}_0.distcp", rank)));
      EXPECT_GT(fs::file_size(saved / fmt::format("__{}_0.distcp", rank)), 10'000u);
    }
    EXPECT_EQ(integrity_problems(saved), std::vector<std::string>{});
    config.checkpoint.load = saved.string();
    for (const int64_t others : {1, 2, 3}) {
      config.checkpoint.save = (directory_ / fmt::format("on-{}-{}", ranks, others)).string();
      const std::vector<double> rest = run(config, others);
      ASSERT_EQ(rest.size(), 3u) << others;
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_NEAR(rest[i], whole[3 + i], 1e-5 * whole[3 + i]) << ranks << " to " << others;
      }
    }
  }
};

TEST_F(SavedByRanks, AdaptersGoOnUnderAnyNumber) { expect_exact_resume(config("run", "lora"), 2); }

TEST_F(SavedByRanks, WeightsSavedBesideTheStepsGoOnUnderAnyNumber) {
  TrainConfig config = this->config("run");
  config.checkpoint.async_save = true;
  expect_exact_resume(config, 3);
}

// Behind each save the run goes on: its line is of the step all the same.
TEST_F(SavedByRanks, ProgressIsOfTheStepAndOfARank) {
  TrainConfig config = this->config("run", "lora");
  config.checkpoint.async_save = true;
  config.checkpoint.save_interval = 1;
  config.logger.log_progress = true;
  run(config, 2);
  std::map<int64_t, std::string> flops;
  double sum = 0;
  std::istringstream steps(read_text(fs::path(config.checkpoint.save) / "metrics.jsonl"));
  for (std::string line; std::getline(steps, line);) {
    const Json step = Json::parse(line);
    EXPECT_EQ(step["ranks"], 2);
    sum += step["flops"].get<double>();
    flops[step["step"]] = fmt::format("Floating-point operations: {:.2e}\t", sum);
  }
  std::istringstream lines(read_text(fs::path(config.checkpoint.save) / "progress.txt"));
  int64_t saved = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_NE(line.find("\t# GPUs: 2\t"), line.npos) << line;
    if (line.find("Saved checkpoint") == line.npos) continue;
    ++saved;
    EXPECT_NE(line.find(fmt::format("\tIteration: {}\t", saved)), line.npos) << line;
    EXPECT_NE(line.find(flops[saved]), line.npos) << line << flops[saved];
  }
  EXPECT_EQ(saved, 6);
}

TEST_F(SavedByRanks, AFailedSaveLeavesTheOlderOne) {
  for (const bool async : {false, true}) {
    TrainConfig config = this->config("run", "lora");
    config.checkpoint.async_save = async;
    const auto in_the_way = [&](const StepMetrics& metrics) {
      if (metrics.step == 4)
        write_text(iteration_directory(config.checkpoint.save, 6), "in the way");
    };
    expect_mentions(error_of([&] {
                      run_ranks(2, [&](const World& world) {
                        Trainer trainer(config, {}, world);
                        trainer.run(world.is_first() ? in_the_way : Trainer::OnStep());
                      });
                    }),
                    {"iter_0000006"});
    EXPECT_EQ(MegatronCheckpoint(config.checkpoint.save).iteration(), 3);
    fs::remove_all(config.checkpoint.save);
  }
}

// A run of the real bridge, whose optimizer lies in flat buckets.
TEST_F(SavedByRanks, TheBridgesFlatOptimizerIsGoneOnWith) {
  TrainConfig config = this->config("run", "lora");
  config.checkpoint.load = "fixtures/megatron/lora";
  config.peft.dim = 4;
  config.peft.alpha = 8;
  Trainer trainer(config);
  EXPECT_EQ(trainer.progress().step, 2);
  AdamW::NamedTensors trained;
  for (const auto& entry : trainer.model().named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  AdamW optimizer(trained, {});
  SavedRun(config.checkpoint.load).load_state(optimizer, {});
  const MegatronCheckpoint checkpoint(config.checkpoint.load);
  std::vector<std::string> names;
  for (const auto& [name, info] : checkpoint.tensors()) names.push_back(name);
  const FlatState state(checkpoint, names);
  ASSERT_EQ(optimizer.state().size(), 3 * names.size());
  for (const auto& [name, tensor] : optimizer.state()) {
    const Shard shard = whole_shard("optimizer.state." + name, {at::kFloat, tensor.sizes().vec()});
    EXPECT_TRUE(tensor.reshape({-1}).equal(state.read(shard))) << name;
  }
  EXPECT_GT(trainer.step().loss, 0);
}

}  // namespace
}  // namespace trestle
