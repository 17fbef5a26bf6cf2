// The loop: losses of full fine-tuning against transformers, exact resume, schedule.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "golden.h"
#include "train/recipes.h"
#include "train/trainer.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class FullFineTuning : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, FullFineTuning,
                         ::testing::Values("tied", "untied", "mistral", "text"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(FullFineTuning, TenLossesEqualTransformers) {
  const testing::Golden golden(GetParam());
  const auto model = golden.model();
  model->train();
  AdamW::NamedTensors parameters;
  for (const auto& entry : model->named_parameters())
    parameters.emplace_back(entry.key(), entry.value());
  AdamW optimizer(parameters, {});
  const ModelInput input = golden.input();
  const at::Tensor labels = golden.shifted_labels();
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const auto [sum, targets] = model->loss_sum(input, labels);
    const at::Tensor loss = sum / targets;
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), golden["losses"][step].item<double>(), 1e-4)
        << "step " << step;
    EXPECT_NEAR(clip_grad_norm(parameters, 1.0), golden["grad_norms"][step].item<double>(), 1e-3);
    optimizer.step(1e-3);
  }
}

TEST(Schedule, IsMegatrons) {
  TrainConfig config;
  config.optimizer.lr = 1;
  config.optimizer.min_lr = 0.1;
  config.train.train_iters = 20;
  config.scheduler.lr_warmup_iters = 10;
  EXPECT_EQ(learning_rate(config, 1), 0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 6), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 11), 1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 16), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 22), 0.1);
  config.scheduler.lr_warmup_iters = 0;
  EXPECT_DOUBLE_EQ(learning_rate(config, 1), 1);
}

class Run : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / fmt::format("trestle-run-{}", ::getpid());
    fs::create_directories(directory_);
    std::ofstream data(directory_ / "data.jsonl");
    for (int i = 0; i < 7; ++i) {
      data << R"({"messages": [{"role": "user", "content": "count )" << i
           << R"("}, {"role": "assistant", "content": ")"
           << std::string(static_cast<size_t>(3 + i), 'a') << "\"}]}\n";
    }
  }
  void TearDown() override { fs::remove_all(directory_); }

  TrainConfig config(const std::string& name) const {
    TrainConfig config = recipe("ministral3_3b_sft_config");
    config.checkpoint.pretrained_checkpoint = "fixtures/hf";
    config.checkpoint.save = (directory_ / name).string();
    config.checkpoint.save_interval = 3;
    config.dataset.maker_name = "jsonl";
    config.dataset.path_or_dataset = (directory_ / "data.jsonl").string();
    config.train.train_iters = 6;
    config.train.global_batch_size = 4;
    config.train.micro_batch_size = 2;
    config.optimizer.lr = 1e-3;
    config.scheduler.lr_warmup_iters = 2;
    return config;
  }

  static std::vector<double> losses(const TrainConfig& config) {
    std::vector<double> losses;
    Trainer(config).run([&](const StepMetrics& metrics) { losses.push_back(metrics.loss); });
    return losses;
  }

  // Six steps at once, and three, a stop, and three: the same losses to the bit.
  void expect_exact_resume(TrainConfig config) {
    const std::vector<double> whole = losses(config);
    config.checkpoint.save += "-resumed";
    config.train.exit_interval = 3;
    std::vector<double> parts = losses(config);
    ASSERT_EQ(parts.size(), 3u);
    config.train.exit_interval.reset();
    config.checkpoint.load = config.checkpoint.save;
    const std::vector<double> rest = losses(config);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(parts, whole);
    std::ifstream log(fs::path(config.checkpoint.save) / "metrics.jsonl");
    int64_t lines = 0;
    for (std::string line; std::getline(log, line);) EXPECT_EQ(Json::parse(line)["step"], ++lines);
    EXPECT_EQ(lines, 6);
  }

  fs::path directory_;
};

TEST_F(Run, FullFineTuningResumesToTheBit) { expect_exact_resume(config("sft")); }

TEST_F(Run, LoraWithDropoutResumesToTheBit) {
  TrainConfig lora = config("lora");
  lora.peft.scheme = "lora";
  lora.peft.dim = 4;
  lora.peft.dropout = 0.1;
  expect_exact_resume(lora);
}

TEST_F(Run, DoraWithDropoutResumesToTheBit) {
  TrainConfig dora = config("dora");
  dora.peft.scheme = "dora";
  dora.peft.dim = 4;
  dora.peft.dropout = 0.1;
  expect_exact_resume(dora);
}

TEST_F(Run, DoraInFp32ResumesToTheBit) {
  TrainConfig dora = config("dora32");
  dora.peft.scheme = "dora";
  dora.peft.dim = 4;
  dora.model.params_dtype = "float32";
  expect_exact_resume(dora);
}

TEST_F(Run, StartsFromAnAdapterOfItsScheme) {
  TrainConfig dora = config("dora");
  dora.peft.scheme = "dora";
  dora.peft.adapter_path = "fixtures/megatron/dora";
  dora.train.train_iters = 1;
  EXPECT_EQ(losses(dora).size(), 1u);
  dora.peft.adapter_path = "fixtures/megatron/lora";
  try {
    const Trainer trainer(dora);
    FAIL() << "a LoRA adapter was taken for a DoRA run";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("is a lora adapter"), std::string::npos)
        << error.what();
  }
}

TEST_F(Run, FrozenPartsStay) {
  TrainConfig frozen = config("frozen");
  frozen.model.freeze_language_model = true;
  frozen.model.freeze_vision_model = true;
  frozen.train.train_iters = 1;
  Trainer trainer(frozen);
  for (const auto& entry : trainer.model().named_parameters()) {
    EXPECT_EQ(entry.value().requires_grad(), entry.key().starts_with("multi_modal_projector."))
        << entry.key();
  }
}

TEST(Recipes, ResolvedConfigsAreTheCommittedOnes) {
  // To accept a change: trestle recipes NAME > tests/golden/recipes/NAME.yaml, and let the diff be
  // reviewed.
  for (const Recipe& each : recipes()) {
    EXPECT_EQ(to_yaml(each.make()), read_text("golden/recipes/" + each.name + ".yaml"))
        << each.name;
  }
}

}  // namespace
}  // namespace trestle
