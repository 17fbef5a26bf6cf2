// What a run says of its device and keeps of it: train.device, train.deterministic, and the random
// state of a card.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "errors.h"
#include "model/ministral3.h"
#include "run/random_state.h"
#include "run/snapshot.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::expect_mentions;

class DeviceRun : public testing::RunTest {
 protected:
  TrainConfig config_of(const std::string& name) const {
    TrainConfig config = this->config(name, "lora");
    config.model.params_dtype = "float32";
    config.dataset.num_workers = 0;
    config.peft.dropout = 0.5;  // so that something is drawn
    return config;
  }
};

TEST_F(DeviceRun, AnotherDeviceIsRefusedBeforeAnythingIsWritten) {
  TrainConfig config = config_of("run");
  config.train.device = "gpu";
  EXPECT_REFUSED(Trainer{config}, "train.device=gpu", "auto, cpu, cuda or cuda:N");
  if (cards_here().count == 0) {
    config.train.device = "cuda";
    EXPECT_REFUSED(Trainer{config}, "train.device=cuda",
                   cards_here().built ? "no card" : "no CUDA");
  }
  EXPECT_FALSE(fs::exists(config.checkpoint.save));
}

TEST_F(DeviceRun, DeterministicIsTheSameOnTheCpuAndEndsWithTheRun) {
  TrainConfig config = config_of("plain");
  config.train.device = "cpu";
  const std::vector<double> plain = losses(config);
  config.checkpoint.save += "-deterministic";
  config.train.deterministic = true;
  std::vector<double> deterministic;
  ::testing::internal::CaptureStderr();
  Trainer(config).run([&](const StepMetrics& metrics) {
    EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
    deterministic.push_back(metrics.loss);
  });
  expect_mentions(::testing::internal::GetCapturedStderr(), {"train.deterministic=true"});
  EXPECT_EQ(deterministic, plain);
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
}

// A checkpoint as a card would have left it.
TEST_F(DeviceRun, OnTheCpuACardsRandomStateIsToldOfAndNotUsed) {
  const TrainConfig config = config_of("run");
  const std::vector<double> whole = losses(config);
  TrainConfig half = config_of("half");
  half.train.exit_interval = 3;
  Trainer(half).run();
  {
    TrainConfig again = half;
    again.checkpoint.load = again.checkpoint.save;
    Trainer trainer(again);
    const OpenCheckpoint base("fixtures/hf");
    const RunIdentity identity = *SavedRun(half.checkpoint.save).identity();
    AdamW::NamedTensors trained;
    for (const auto& entry : trainer.model().named_parameters()) {
      if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
    }
    AdamW optimizer(trained, {});
    const RunProgress progress = SavedRun(half.checkpoint.save).load_state(optimizer, {});
    Snapshot snapshot =
        take_snapshot(half, trainer.model(), optimizer, progress, identity, base, /*folder=*/{},
                      /*copied=*/false);
    for (const auto& each : snapshot.tensors) EXPECT_NE(each.shard.name, kCardRandomState);
    const at::Tensor state = at::arange(16, at::kByte);
    snapshot.tensors.push_back(
        {.shard = whole_shard(kCardRandomState, info_of(state)), .data = state});
    write_checkpoint(snapshot, {});
  }
  half.checkpoint.load = half.checkpoint.save;
  half.train.exit_interval.reset();
  ::testing::internal::CaptureStderr();
  const std::vector<double> rest = losses(half);
  expect_mentions(::testing::internal::GetCapturedStderr(), {"was saved on a card"});
  EXPECT_EQ(rest, std::vector<double>(whole.begin() + 3, whole.end()));
  // What it saved in turn is the CPU's alone.
  ::testing::internal::CaptureStderr();
  half.checkpoint.load = half.checkpoint.save + "/iter_0000006";
  half.checkpoint.save += "-on";
  half.train.train_iters = 7;
  Trainer{half};
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("card"), std::string::npos) << said;
}

}  // namespace
}  // namespace trestle
