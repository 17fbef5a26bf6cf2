// Features of a frozen tower and projector: the same losses to the bit from nowhere, from memory
// and from disk, and nothing kept where they may change.
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "cpu/cpu.h"
#include "errors.h"
#include "model/ministral3.h"
#include "recipes/recipes.h"
#include "temp_dir.h"
#include "train/testing.h"
#include "train/trainer.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class Features : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    std::ofstream data(directory_ / "data.jsonl");
    testing::write_picture_rows(data);
    // A row without a picture among them.
    data
        << R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})"
        << "\n";
  }

  TrainConfig config() const {
    TrainConfig config = recipe("ministral3_3b_peft_config");
    config.model.params_dtype = "float32";
    config.checkpoint.pretrained_checkpoint = "../assets/demo/model";
    config.checkpoint.save = (directory_ / "run").string();
    config.dataset.maker_name = "jsonl";
    config.dataset.path_or_dataset = (directory_ / "data.jsonl").string();
    config.dataset.image_max_edge = 112;
    config.dataset.feature_cache_mb = 0;
    config.train.train_iters = 4;
    config.train.global_batch_size = 4;
    config.train.micro_batch_size = 2;
    config.peft.dim = 4;
    config.optimizer.lr = 1e-2;
    config.scheduler.lr_warmup_iters = 0;
    return config;
  }
  TrainConfig with_disk() const {
    TrainConfig on_disk = config();
    on_disk.dataset.feature_cache = (directory_ / "cache").string();
    return on_disk;
  }

  struct Outcome {
    std::vector<double> losses;
    bool cached = false;
    FeatureCache::Counts counts;
  };
  // In a run directory of its own.
  static Outcome run(TrainConfig config) {
    static int runs = 0;
    config.checkpoint.save += std::to_string(runs++);
    Outcome outcome;
    Trainer trainer(config);
    trainer.run([&](const StepMetrics& metrics) { outcome.losses.push_back(metrics.loss); });
    outcome.cached = trainer.features() != nullptr;
    if (outcome.cached) outcome.counts = trainer.features()->counts();
    return outcome;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> files;
    for (const auto& each : fs::directory_iterator(directory_ / "cache"))
      files.push_back(each.path());
    return files;
  }
};

TEST_F(Features, FromMemoryAreTheSameBits) {
  const Outcome without = run(config());
  EXPECT_FALSE(without.cached);
  TrainConfig in_memory = config();
  in_memory.dataset.feature_cache_mb = 16;
  const Outcome with = run(in_memory);
  EXPECT_EQ(with.losses, without.losses);
  EXPECT_EQ(with.counts.made, 3);
  EXPECT_EQ(with.counts.from_memory, 9);  // three pictures, three epochs more
}

TEST_F(Features, FromDiskAreTheSameBitsAndDamagedOnesAreMadeAnew) {
  const Outcome without = run(config());
  const Outcome first = run(with_disk());
  EXPECT_EQ(first.losses, without.losses);
  EXPECT_EQ(first.counts.made, 3);
  ASSERT_EQ(files().size(), 3u);
  const Outcome second = run(with_disk());
  EXPECT_EQ(second.losses, without.losses);
  EXPECT_EQ(second.counts.made, 0);
  EXPECT_EQ(second.counts.from_disk, 12);
  // One byte of the values, an empty file, another picture's file under this one's name.
  const std::vector<fs::path> all = files();
  std::string text = read_text(all[0]);
  text.back() = static_cast<char>(text.back() ^ 1);
  write_text(all[0], text);
  write_text(all[1], "");
  fs::copy_file(all[0], all[2], fs::copy_options::overwrite_existing);
  const Outcome mended = run(with_disk());
  EXPECT_EQ(mended.losses, without.losses);
  EXPECT_EQ(mended.counts.made, 3);
  EXPECT_EQ(run(with_disk()).counts.made, 0);
}

TEST_F(Features, OfAnotherDtypeOrPathOrAQuantisedTowerAreOthers) {
  run(with_disk());
  TrainConfig half = with_disk();
  half.model.params_dtype = "bf16";
  for (const Bf16Path path : {Bf16Path::kNative, Bf16Path::kWidened}) {
    const ForcedBf16Path forced(path);
    EXPECT_EQ(run(half).counts.made, 3);
    EXPECT_EQ(run(half).counts.made, 0);
  }
  TrainConfig quantised = with_disk();
  quantised.peft.base_bits = "8";
  EXPECT_EQ(run(quantised).counts.made, 3);
  EXPECT_EQ(run(quantised).counts.made, 0);
}

TEST_F(Features, AreNotKeptWhereTheyMayChange) {
  TrainConfig full = config();
  full.peft.scheme = "";
  full.dataset.feature_cache_mb = 16;
  EXPECT_FALSE(run(full).cached);
  full.model.freeze_vision_model = true;
  EXPECT_FALSE(run(full).cached);
  full.model.freeze_vision_projection = true;
  EXPECT_TRUE(run(full).cached);
  TrainConfig vision = config();
  vision.dataset.feature_cache_mb = 16;
  vision.peft.target_modules = {"linear_qkv", "vision.q_proj"};
  EXPECT_FALSE(run(vision).cached);
}

TEST_F(Features, AFileInTheirPlaceIsRefused) {
  write_text(directory_ / "cache", "no directory");
  EXPECT_REFUSED(Trainer trainer(with_disk()), "dataset.feature_cache");
}

}  // namespace
}  // namespace trestle
