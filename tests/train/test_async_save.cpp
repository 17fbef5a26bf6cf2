// checkpoint.async_save: the same bytes as a save that waits, written beside the steps that follow.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <regex>
#include <set>

#include "base/file.h"
#include "errors.h"
#include "model/ministral3.h"
#include "parallel/world.h"
#include "run/saver.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

// Names below a run, with the bytes of all but what says how long it took, or that it is
// another run: its lineage, and the digest of the file that has it.
std::map<std::string, std::string> contents(const fs::path& run) {
  const std::set<std::string> apart = {"metrics.jsonl", "report.html", "resolved_config.yaml"};
  std::map<std::string, std::string> files;
  for (const auto& each : fs::recursive_directory_iterator(run)) {
    const fs::path name = each.path().lexically_relative(run);
    if (!each.is_regular_file() || apart.contains(name.string()) ||
        name.begin()->string() == "tensorboard") {
      continue;
    }
    std::string text = read_text(each.path());
    if (name.filename() == "run_config.yaml") {
      text = std::regex_replace(text, std::regex("lineage: \"?[0-9a-f]{32}\"?\n"), "");
    } else if (name.filename() == "integrity.json") {
      text = std::regex_replace(text, std::regex("\"run_config.yaml\": \"[0-9a-f]{64}\""), "");
    }
    files[name.string()] = text;
  }
  return files;
}

class AsyncSave : public testing::RunTest {
 protected:
  // Dropout draws from torch's random numbers in each step.
  TrainConfig lora(const std::string& name, bool async) const {
    TrainConfig config = this->config(name, "lora");
    config.model.params_dtype = "float32";
    config.peft.dropout = 0.1;
    config.checkpoint.save_interval = 1;
    config.checkpoint.async_save = async;
    return config;
  }
};

TEST_F(AsyncSave, BytesAreThoseOfASaveThatWaits) {
  for (const bool full : {false, true}) {
    SCOPED_TRACE(full);
    const std::string name = full ? "full" : "lora";
    TrainConfig waits = lora(name, false), goes_on = lora(name + "-async", true);
    for (TrainConfig* config : {&waits, &goes_on}) {
      config->validation.path_or_dataset = config->dataset.path_or_dataset;
      config->validation.eval_interval = 2;
      config->validation.best_metric = "valid_loss";
      config->checkpoint.most_recent_k = 3;
      config->checkpoint.also_save_hf_checkpoint = true;
      if (full) config->peft = {}, config->peft.scheme = "";
    }
    const std::vector<double> losses = this->losses(waits);
    EXPECT_EQ(this->losses(goes_on), losses);
    const auto one = contents(waits.checkpoint.save), other = contents(goes_on.checkpoint.save);
    ASSERT_GT(one.size(), 20u);
    EXPECT_TRUE(one.contains("iter_0000006/integrity.json"));
    ASSERT_EQ(one.size(), other.size());
    for (const auto& [file, bytes] : one) EXPECT_TRUE(other.at(file) == bytes) << file;
  }
}

TEST_F(AsyncSave, GoesOnToTheBit) {
  TrainConfig config = lora("run", true);
  config.checkpoint.most_recent_k = 2;
  expect_exact_resume(config);
}

// What the snapshot holds is what was there when it was taken, whatever the run does then.
TEST_F(AsyncSave, ASnapshotSharesNothingWithTheRun) {
  TrainConfig config = lora("run", true);
  Trainer trainer(config);
  trainer.step();
  AdamW::NamedTensors trained;
  for (const auto& entry : trainer.model().named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  const AdamW optimizer(trained, {});
  const OpenCheckpoint base(config.checkpoint.pretrained_checkpoint);
  const Snapshot copied = take_snapshot(config, trainer.model(), optimizer, trainer.progress(), {},
                                        base, {}, /*copied=*/true);
  const Snapshot shared = take_snapshot(config, trainer.model(), optimizer, trainer.progress(), {},
                                        base, {}, /*copied=*/false);
  ASSERT_EQ(copied.tensors.size(), shared.tensors.size());
  ASSERT_GT(copied.tensors.size(), 4u);
  for (size_t i = 0; i < copied.tensors.size(); ++i) {
    const HeldTensor &copy = copied.tensors[i], &own = shared.tensors[i];
    EXPECT_TRUE(at::equal(copy.data, own.data));
    EXPECT_FALSE(copy.data.is_alias_of(own.data)) << copy.shard.name;
  }
}

// The first rank's writer cannot be done before the second one's has begun, which waits until the
// first rank has gone on.
TEST_F(AsyncSave, TheRunDoesNotWaitForTheWriter) {
  TrainConfig config = lora("run", true);
  config.checkpoint.save_interval = 100;
  const OpenCheckpoint base(config.checkpoint.pretrained_checkpoint);
  std::promise<void> gone_on;
  const std::shared_future<void> has_gone_on = gone_on.get_future().share();
  run_ranks(2, [&](const World& world) {
    Trainer trainer(config, {}, world);
    trainer.step();
    fs::create_directories(config.checkpoint.save);
    CheckpointSaver saver(config.checkpoint, {}, trainer.ranks().saving);
    Snapshot snapshot =
        take_snapshot(config, trainer.model(), trainer.optimizer(), trainer.progress(), {}, base,
                      {}, /*copied=*/true, trainer.ranks().plan(true));
    if (world.rank() == 1) {
      EXPECT_EQ(has_gone_on.wait_for(std::chrono::seconds(30)), std::future_status::ready);
    }
    saver.save(std::move(snapshot), false);
    if (world.rank() == 0) {
      EXPECT_FALSE(saver.finished());
      gone_on.set_value();
    }
    trainer.step();  // both, while it is written
    saver.wait();
    EXPECT_EQ(saver.finished(), 1);
  });
  EXPECT_EQ(MegatronCheckpoint(config.checkpoint.save).iteration(), 1);
}

// A directory that cannot be replaced, at a step whose save the run does not wait for.
TEST_F(AsyncSave, AnErrorOfTheWriterEndsTheRun) {
  std::map<bool, std::string> said;
  for (const bool async : {false, true}) {
    TrainConfig config = lora("run", async);
    config.checkpoint.save_interval = 2;
    Trainer trainer(config);
    int64_t steps = 0;
    const auto in_the_way = [&](const StepMetrics& metrics) {
      steps = metrics.step;
      // A file where the second checkpoint goes.
      if (metrics.step == 3) write_text(directory_ / "run" / "iter_0000004", "in the way");
    };
    said[async] = testing::error_of([&] { trainer.run(in_the_way); });
    testing::expect_mentions(said[async], {"iter_0000004"});
    EXPECT_GE(steps, 4);
    EXPECT_LE(steps, 6);
    EXPECT_EQ(MegatronCheckpoint(config.checkpoint.save).iteration(), 2);  // the older one is there
    fs::remove_all(config.checkpoint.save);
  }
  EXPECT_EQ(said[true], said[false]);
}

}  // namespace
}  // namespace trestle
