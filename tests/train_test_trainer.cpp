// The loop: losses of full fine-tuning against transformers, exact resume, schedule.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <limits>

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

TEST_F(Run, AdaptersOnAQuantisedBaseResumeToTheBit) {
  for (const int64_t bits : {4, 8}) {
    TrainConfig quantized = config(fmt::format("bits{}", bits));
    quantized.peft.scheme = bits == 4 ? "lora" : "dora";
    quantized.peft.dim = 4;
    quantized.peft.dropout = 0.1;
    quantized.peft.base_bits = bits;
    expect_exact_resume(quantized);
    quantized.checkpoint.load = quantized.checkpoint.save;
    quantized.peft.base_bits = 16;
    try {
      const Trainer trainer(quantized);
      FAIL() << "another base is not refused";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what())
                    .find(fmt::format("on a base of {} bits but peft.base_bits=16", bits)),
                std::string::npos)
          << error.what();
    }
  }
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

// One value of one weight becomes `value`.
void poison(Trainer& trainer, const std::string& name, float value) {
  const at::NoGradGuard no_grad;
  trainer.model().named_parameters()[name].flatten()[3].fill_(value);
}

constexpr const char* kPoisoned = "language_model.decoder.layers.1.mlp.linear_fc2.weight";

TEST_F(Run, NamesWhatIsNoNumber) {
  Trainer trainer(config("nan"));
  trainer.step();
  poison(trainer, kPoisoned, std::numeric_limits<float>::quiet_NaN());
  try {
    trainer.step();
    FAIL() << "a NaN was trained on";
  } catch (const UserError& error) {
    const std::string message = error.what();
    for (const std::string part : {"step 2", "rows ", kPoisoned, "--on-nan skip"}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
}

TEST_F(Run, FindsTheFirstLayerThatOverflows) {
  TrainConfig fp32 = config("overflow");
  fp32.model.params_dtype = "float32";
  Trainer trainer(fp32);
  {
    // Finite itself: its output is not.
    const at::NoGradGuard no_grad;
    trainer.model().named_parameters()[kPoisoned].fill_(3e38f);
  }
  try {
    trainer.step();
    FAIL() << "an infinity was trained on";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("output of decoder layer 1"), std::string::npos)
        << error.what();
  }
}

TEST_F(Run, SkipsAndGivesUp) {
  TrainConfig skipping = config("skip");
  skipping.train.on_nan = "skip";
  skipping.train.max_steps_on_nan = 2;
  Trainer trainer(skipping);
  trainer.step();
  const at::Tensor watched =
      trainer.model().named_parameters()["language_model.output_layer.weight"];
  const at::Tensor before = watched.detach().clone();
  poison(trainer, kPoisoned, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < 2; ++i) {
    const StepMetrics metrics = trainer.step();
    EXPECT_NE(metrics.skipped.find(kPoisoned), std::string::npos) << metrics.skipped;
    EXPECT_TRUE(at::equal(watched, before));
  }
  EXPECT_EQ(trainer.progress().skipped, 2);
  EXPECT_THROW(trainer.step(), UserError);
}

TEST_F(Run, ASpikeIsMeasuredByTheStepsBefore) {
  TrainConfig config = this->config("spike");
  config.train.train_iters = 100;
  config.train.loss_spike_factor = 1.5;
  config.optimizer.lr = 1e-5;
  config.optimizer.min_lr = 1e-6;
  Trainer trainer(config);
  for (int i = 0; i < 20; ++i) trainer.step();
  {
    const at::NoGradGuard no_grad;
    trainer.model().named_parameters()["language_model.output_layer.weight"].mul_(50);
  }
  try {
    trainer.step();
    FAIL() << "a spike was trained on";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("train.loss_spike_factor=1.5"), std::string::npos)
        << error.what();
  }
}

TEST_F(Run, SkippedStepsResumeToTheBit) {
  TrainConfig skipping = config("skipped");
  skipping.train.on_nan = "skip";
  skipping.train.max_steps_on_nan = 100;
  skipping.train.train_iters = 40;
  skipping.train.loss_spike_factor = 1.001;
  skipping.optimizer.lr = 1e-7;  // so that batches differ more than steps
  skipping.optimizer.min_lr = 1e-8;
  skipping.checkpoint.save_interval = 5;
  const std::vector<double> whole = losses(skipping);
  int64_t skipped = 0;
  std::ifstream log(fs::path(skipping.checkpoint.save) / "metrics.jsonl");
  for (std::string line; std::getline(log, line);) skipped += Json::parse(line).contains("skipped");
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 20);
  skipping.checkpoint.save += "-resumed";
  skipping.train.exit_interval = 30;
  std::vector<double> parts = losses(skipping);
  skipping.train.exit_interval.reset();
  skipping.checkpoint.load = skipping.checkpoint.save;
  for (const double loss : losses(skipping)) parts.push_back(loss);
  EXPECT_EQ(parts, whole);
}

TEST_F(Run, ASignalSavesAndStops) {
  TrainConfig stopped = config("signal");
  const std::vector<double> whole = losses(stopped);
  stopped.checkpoint.save += "-stopped";
  std::vector<double> parts;
  Trainer trainer(stopped);
  const int signal = trainer.run([&](const StepMetrics& metrics) {
    parts.push_back(metrics.loss);
    if (metrics.step == 2) std::raise(SIGTERM);
  });
  EXPECT_EQ(signal, SIGTERM);
  EXPECT_EQ(parts.size(), 2u);
  stopped.checkpoint.load = stopped.checkpoint.save;
  for (const double loss : losses(stopped)) parts.push_back(loss);
  EXPECT_EQ(parts, whole);
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
