// The loop: losses of full fine-tuning against transformers, exact resume, schedule.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <set>

#include "base/file.h"
#include "errors.h"
#include "golden.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "train/steps.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::batch_of;
using testing::expect_ten_steps;

class FullFineTuning : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, FullFineTuning,
                         ::testing::Values("tied", "untied", "mistral", "text"),
                         testing::test_name);
INSTANTIATE_TEST_SUITE_P(Kin, FullFineTuning, ::testing::ValuesIn(testing::kKin),
                         testing::test_name);

// users' pain point 20: odd first losses, NaN.
TEST_P(FullFineTuning, TenLossesEqualTransformers) {
  const testing::Golden golden(GetParam());
  const auto model = golden.model();
  model->train();
  expect_ten_steps(*model, batch_of(golden), {}, 1e-3, golden["losses"], golden["grad_norms"]);
}

class Run : public testing::RunTest {};

// users' pain point 24: resuming.
TEST_F(Run, FullFineTuningResumesToTheBit) { expect_exact_resume(config("sft")); }

TEST_F(Run, LoraWithDropoutResumesToTheBit) {
  TrainConfig lora = config("lora", "lora");
  lora.peft.dropout = 0.1;
  expect_exact_resume(lora);
}

TEST_F(Run, DoraWithDropoutResumesToTheBit) {
  TrainConfig dora = config("dora", "dora");
  dora.peft.dropout = 0.1;
  expect_exact_resume(dora);
}

TEST_F(Run, AdaptersOnAQuantisedBaseResumeToTheBit) {
  for (const int64_t bits : {4, 8}) {
    TrainConfig quantized = config(fmt::format("bits{}", bits), bits == 4 ? "lora" : "dora");
    quantized.peft.dropout = 0.1;
    quantized.peft.base_bits = fmt::format("{}", bits);
    expect_exact_resume(quantized);
    quantized.checkpoint.load = quantized.checkpoint.save;
    quantized.peft.base_bits = "16";
    EXPECT_REFUSED(const Trainer trainer(quantized),
                   fmt::format("peft.base_bits=16 (there: {})", bits));
  }
}

TEST_F(Run, DoraInFp32ResumesToTheBit) {
  TrainConfig dora = config("dora32", "dora");
  dora.model.params_dtype = "float32";
  expect_exact_resume(dora);
}

TEST_F(Run, PissaOfAllPartsResumesToTheBitAndBelongsToItsBase) {
  TrainConfig pissa = config("pissa", "lora");
  pissa.peft.lora_A_init_method = "pissa";
  pissa.peft.lora_plus_ratio = 4;
  pissa.peft.target_modules = {"lm.*", "vision.*", "projector.*"};
  expect_exact_resume(pissa);

  pissa.model.params_dtype = "float32";
  pissa.checkpoint.save += "-fp32";
  Trainer trainer(pissa);
  trainer.run();
  trainer.model().eval();
  // On disk the base is as it was; the run's adapter makes it the trained model.
  const auto again = load_model(OpenCheckpoint("fixtures/hf"), {at::kFloat, at::kCPU});
  const at::NoGradGuard no_grad;
  const ModelInput input = ModelInput::make(at::arange(20, 60), {40});
  const at::Tensor plain = again->logits(input);
  load_adapter(*again, pissa.checkpoint.save);
  const at::Tensor trained = trainer.model().logits(input);
  EXPECT_GT((trained - plain).abs().max().item<double>(), 1e-2);
  testing::expect_near(again->logits(input), trained, 1e-4, "from the run");
}

TEST_F(Run, LoraOfAllPartsResumesToTheBitUnderTheBridgesNames) {
  TrainConfig lora = config("all", "lora");
  lora.peft.target_modules = {"lm.*", "vision.*", "projector.*"};
  expect_exact_resume(lora);
  const MegatronCheckpoint stored(lora.checkpoint.save);
  for (const std::string name :
       {"language_model.decoder.layers.2.mlp.linear_fc1.adapter.linear_in.weight",
        "vision_tower.transformer.layers.0.attention.q_proj.linear_in.weight",
        "multi_modal_projector.linear_2.linear_out.weight"}) {
    EXPECT_TRUE(stored.tensors().contains(name)) << name;
  }
  EXPECT_TRUE(stored.is_adapter());
  const Json peft = stored.run_config()["peft"];
  EXPECT_EQ(peft["_target_"], "megatron.bridge.peft.lora.LoRA");
  EXPECT_EQ(peft["target_modules"][4], "vision_tower.*q_proj");
}

// users' pain point 18: rows with and without pictures.
TEST_F(Run, LoraOfTheVisionTowerAloneIsARunToo) {
  TrainConfig lora = config("vision", "lora");
  lora.peft.target_modules = {"vision.linear_qkv"};
  // Text alone sends no gradient there: every step has the loss of the model as it came.
  TrainConfig plain = config("plain");
  plain.train.train_iters = 3;  // the first step has no rate
  lora.train.train_iters = 3;
  std::vector<double> found;
  Trainer(lora).run([&](const StepMetrics& metrics) {
    EXPECT_EQ(metrics.grad_norm, 0);
    EXPECT_TRUE(metrics.skipped.empty()) << metrics.skipped;
    found.push_back(metrics.loss);
  });
  ASSERT_EQ(found.size(), 3u);
  const std::vector<double> trained = losses(plain);
  EXPECT_EQ(found[0], trained[0]);
  EXPECT_EQ(found[1], trained[1]);
  EXPECT_NE(found[2], trained[2]);
}

// Megatron Bridge freezes the base whatever the flags say, and trains every adapter it is told of.
TEST_F(Run, FreezeFlagsLeaveAdaptersAlone) {
  TrainConfig lora = config("flags");
  lora.peft.scheme = "lora";
  lora.peft.target_modules = {"linear_qkv", "vision.q_proj", "projector.linear_1"};
  const auto trained = [](const TrainConfig& each) {
    std::set<std::string> names;
    Trainer trainer(each);
    for (const auto& entry : trainer.model().named_parameters()) {
      if (entry.value().requires_grad()) names.insert(entry.key());
    }
    return names;
  };
  const std::set<std::string> plain = trained(lora);
  EXPECT_TRUE(std::ranges::all_of(
      plain, [](const std::string& name) { return name.find(".adapter.") != std::string::npos; }));
  lora.model.freeze_language_model = lora.model.freeze_vision_model =
      lora.model.freeze_vision_projection = true;
  EXPECT_EQ(trained(lora), plain);
}

TEST_F(Run, StartsFromAnAdapterOfItsScheme) {
  TrainConfig dora = config("dora");
  dora.peft.scheme = "dora";
  dora.peft.adapter_path = "fixtures/megatron/dora";
  {
    Trainer trainer(dora);
    const auto wanted = load_model(OpenCheckpoint("fixtures/hf"), {at::kBFloat16, at::kCPU});
    load_adapter(*wanted, dora.peft.adapter_path);
    const auto got = trainer.model().named_parameters();
    int64_t adapters = 0;
    for (const auto& entry : wanted->named_parameters()) {
      adapters += entry.key().ends_with("weight_magnitude");
      EXPECT_TRUE(at::equal(got[entry.key()], entry.value())) << entry.key();
    }
    EXPECT_EQ(adapters, 12);
    EXPECT_EQ(got.size(), wanted->named_parameters().size());
  }
  dora.peft.adapter_path = "fixtures/megatron/lora";
  EXPECT_REFUSED(const Trainer trainer(dora), "is a lora adapter");
}

TEST_F(Run, FrozenPartsStay) {
  TrainConfig frozen = config("frozen");
  frozen.model.freeze_language_model = true;
  frozen.model.freeze_vision_model = true;
  frozen.model.params_dtype = "float32";
  frozen.scheduler.lr_warmup_iters = 0;
  // Pictures, so that there is a gradient for what is not frozen.
  frozen.checkpoint.pretrained_checkpoint = "../assets/demo/model";
  frozen.dataset.maker_name = "make_raven_dataset";
  frozen.dataset.path_or_dataset = "data/golden/raven-train-00000-of-00001.parquet";
  Trainer trainer(frozen);
  std::map<std::string, at::Tensor> before;
  for (const auto& entry : trainer.model().named_parameters()) {
    before[entry.key()] = entry.value().detach().clone();
  }
  trainer.step();
  for (const auto& entry : trainer.model().named_parameters()) {
    EXPECT_EQ(at::equal(entry.value(), before.at(entry.key())),
              !entry.key().starts_with("multi_modal_projector."))
        << entry.key();
  }
}

// One value of one weight becomes `value`.
void poison(Trainer& trainer, const std::string& name, float value) {
  const at::NoGradGuard no_grad;
  trainer.model().named_parameters()[name].flatten()[3].fill_(value);
}

constexpr const char* kPoisoned = "language_model.decoder.layers.1.mlp.linear_fc2.weight";

// users' pain point 20: odd first losses, NaN.
TEST_F(Run, NamesWhatIsNoNumber) {
  Trainer trainer(config("nan"));
  trainer.step();
  poison(trainer, kPoisoned, std::numeric_limits<float>::quiet_NaN());
  EXPECT_REFUSED(trainer.step(), "step 2", "rows ", kPoisoned, "--on-nan skip");
}

// users' pain point 20: odd first losses, NaN.
TEST_F(Run, FindsTheFirstLayerThatOverflows) {
  TrainConfig fp32 = config("overflow");
  fp32.model.params_dtype = "float32";
  Trainer trainer(fp32);
  {
    // Finite itself: its output is not.
    const at::NoGradGuard no_grad;
    trainer.model().named_parameters()[kPoisoned].fill_(3e38f);
  }
  EXPECT_REFUSED(trainer.step(), "output of decoder layer 1");
}

// users' pain point 20: odd first losses, NaN.
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
    testing::expect_mentions(metrics.skipped, {kPoisoned});
    EXPECT_TRUE(at::equal(watched, before));
  }
  EXPECT_EQ(trainer.progress().skipped, 2);
  EXPECT_REFUSED(trainer.step(), "more than train.max_steps_on_nan=2 steps");
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
  EXPECT_REFUSED(trainer.step(), "train.loss_spike_factor=1.5");
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

}  // namespace
}  // namespace trestle
