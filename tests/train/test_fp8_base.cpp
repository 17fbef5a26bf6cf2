// Adapters on a checkpoint's FP8 weights against the same run on their values, and what
// peft.base_bits=auto means.
#include <gtest/gtest.h>

#include "base/file.h"
#include "bridge/convert.h"
#include "bridge/load_quantized.h"
#include "fp8_testing.h"
#include "megatron/checkpoint.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "train/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;
using testing::Fp8Form;
using testing::kPerBlock;
using testing::kPerRow;
using testing::kPerTensor;

class Fp8Run : public testing::RunTest {
 protected:
  // On the FP8 model of that form, in fp32.
  TrainConfig on(const Fp8Form& form, const std::string& name, const std::string& scheme,
                 const testing::IsFp8& is_fp8 = testing::is_language_projection) {
    const fs::path base = directory_ / (std::string(form.name) + "-base");
    if (!fs::exists(base)) write_fp8_model(base, form, is_fp8);
    TrainConfig config = this->config(name, scheme);
    config.checkpoint.pretrained_checkpoint = base.string();
    config.model.params_dtype = "float32";
    config.optimizer.lr = 1e-2;
    return config;
  }
  static TrainConfig with_bits(TrainConfig config, const std::string& bits) {
    config.checkpoint.save += "-" + bits;
    config.peft.base_bits = bits;
    return config;
  }
  // Each row with a picture.
  void show_pictures(TrainConfig& config) const {
    std::ofstream data(directory_ / "pictures.jsonl");
    testing::write_picture_rows(data);
    config.dataset.path_or_dataset = (directory_ / "pictures.jsonl").string();
    config.dataset.image_max_edge = 28;
  }
  static std::string settled(const TrainConfig& config) {
    return Trainer(config).config().peft.base_bits;
  }
  void expect_same_losses(TrainConfig config) {
    config.train.train_iters = 10;
    const auto wanted = losses(with_bits(config, "16")), got = losses(with_bits(config, "fp8"));
    ASSERT_EQ(got.size(), 10u);
    EXPECT_GT(wanted.front() - wanted.back(), 0.1);  // something was learnt
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-4) << i;
  }
};

// users' pain point 1: FP8 checkpoints that do not load.
TEST_F(Fp8Run, TenLossesAreThoseOfTheDenseBase) {
  for (const Fp8Form& form : {kPerTensor, kPerRow, kPerBlock}) {
    for (const char* scheme : {"lora", "dora"}) {
      expect_same_losses(on(form, fmt::format("{}-{}", form.name, scheme), scheme));
    }
  }
}

TEST_F(Fp8Run, SoAreThoseOfEveryPartWithPicturesRecomputedAndPacked) {
  TrainConfig config = on(kPerBlock, "all", "dora", testing::is_projection);
  show_pictures(config);
  config.peft.target_modules = {"lm.*", "vision.*", "projector.*"};
  config.model.recompute_granularity = "full";
  config.dataset.pack_sequences_in_batch = true;
  expect_same_losses(config);
}

TEST_F(Fp8Run, FeaturesOfATowerInFp8AreItsOwn) {
  TrainConfig config = on(kPerTensor, "features", "lora", testing::is_projection);
  show_pictures(config);
  config.dataset.feature_cache = (directory_ / "cache").string();
  const auto made = [&](const std::string& name, const std::string& bits) {
    TrainConfig run = with_bits(config, bits);
    run.checkpoint.save += name;
    Trainer trainer(run);
    trainer.run();
    return trainer.features()->counts().made;
  };
  EXPECT_EQ(made("first", "fp8"), 3);
  EXPECT_EQ(made("dense", "16"), 3);
  EXPECT_EQ(made("again", "fp8"), 0);
}

TEST_F(Fp8Run, RecomputingChangesNoBit) {
  TrainConfig plain = on(kPerTensor, "plain", "lora");
  plain.peft.dropout = 0.1;
  TrainConfig recomputed = plain;
  recomputed.checkpoint.save += "-recomputed";
  recomputed.model.recompute_granularity = "full";
  EXPECT_EQ(losses(recomputed), losses(plain));
}

// users' pain point 24: resuming.
TEST_F(Fp8Run, ResumesToTheBit) {
  for (const char* scheme : {"lora", "dora"}) {
    TrainConfig run = on(kPerTensor, scheme, scheme);
    run.peft.dropout = 0.1;
    run.model.params_dtype = "bf16";
    expect_exact_resume(run);
  }
}

TEST_F(Fp8Run, AutoIsFp8UnderAdaptersWhereTheBaseIs) {
  ::testing::internal::CaptureStderr();
  Trainer trainer(on(kPerTensor, "auto", "lora"));
  const std::string said = ::testing::internal::GetCapturedStderr();
  testing::expect_mentions(said,
                           {"peft.base_bits=fp8", "peft.base_bits=16 widens them to float32"});
  EXPECT_EQ(trainer.config().peft.base_bits, "fp8");
  int64_t held = 0;
  for (const auto& [name, linear] : projections(trainer.model())) held += linear->fp8() != nullptr;
  EXPECT_EQ(held, 12);

  EXPECT_EQ(settled(on(kPerTensor, "full", "")), "16");
  TrainConfig pissa = on(kPerTensor, "pissa", "lora");
  pissa.peft.lora_A_init_method = "pissa";
  EXPECT_EQ(settled(pissa), "16");
  TrainConfig plain = config("plain", "lora");
  EXPECT_EQ(settled(plain), "16");
  plain.peft.base_bits = "fp8";
  EXPECT_REFUSED(const Trainer trainer(plain), "peft.base_bits=fp8 has no effect",
                 "no projection of the base is in FP8");
}

// A run that began before a base could stay FP8 goes on as it began: to the bit.
TEST_F(Fp8Run, AutoGoesOnAsTheRunBegan) {
  TrainConfig dense = with_bits(on(kPerTensor, "dense", "lora"), "16");
  const std::vector<double> whole = losses(dense);
  TrainConfig parts = dense;
  parts.checkpoint.save += "-parts";
  parts.train.exit_interval = 3;
  std::vector<double> made = losses(parts);
  parts.train.exit_interval.reset();
  parts.checkpoint.load = parts.checkpoint.save;
  parts.peft.base_bits = "auto";
  for (const double loss : losses(parts)) made.push_back(loss);
  EXPECT_EQ(made, whole);

  // And one in FP8 stays so, is no other run, and may become one.
  TrainConfig fp8 = on(kPerTensor, "fp8", "lora");
  fp8.train.exit_interval = 3;
  losses(fp8);
  fp8.train.exit_interval.reset();
  fp8.checkpoint.load = fp8.checkpoint.save;
  EXPECT_EQ(settled(fp8), "fp8");
  fp8.peft.base_bits = "16";
  EXPECT_REFUSED(const Trainer trainer(fp8), "peft.base_bits=16 (there: fp8)",
                 "--allow-change peft.base_bits");
  const Asked permitted{.keys = {}, .may_change = {"peft.base_bits"}};
  EXPECT_NO_THROW(const Trainer trainer(fp8, permitted));
}

// The same model as a Megatron checkpoint is the same content, but has no FP8.
TEST_F(Fp8Run, GoingOnWithTheImportedBaseIsSaidToDiffer) {
  TrainConfig run = on(kPerTensor, "run", "lora");
  run.train.exit_interval = 3;
  losses(run);
  const fs::path imported = directory_ / "megatron";
  import_checkpoint(run.checkpoint.pretrained_checkpoint, imported, {});
  run.checkpoint.load = run.checkpoint.save;
  run.checkpoint.pretrained_checkpoint = imported.string();
  run.train.exit_interval.reset();
  EXPECT_EQ(testing::refusal_of([&] { Trainer trainer(run); }),
            fmt::format("checkpoint.load={} is of another run: peft.base_bits=16 (there: fp8); "
                        "give it what it was made with, or let it be with --allow-change "
                        "peft.base_bits",
                        run.checkpoint.save));
}

TEST_F(Fp8Run, PissaWidensWhatItMoves) {
  TrainConfig config = on(kPerTensor, "pissa", "lora");
  const OpenCheckpoint base(config.checkpoint.pretrained_checkpoint);
  const auto dense = load_model(base, base_build(at::kFloat, "16"));
  const auto model = load_model(base, base_build(at::kFloat, "fp8"));
  config.peft.lora_A_init_method = "pissa";
  config.peft.target_modules = {"linear_proj"};
  for (const auto& each : {dense, model}) attach_lora(*each, config.peft, 1);
  const auto wanted = projections(*dense);
  int moves = 0;
  for (const auto& [name, linear] : projections(*model)) {
    if (!name.starts_with("language_model.decoder.")) continue;
    const bool moved = name.ends_with("linear_proj.weight");
    EXPECT_EQ(linear->fp8() == nullptr, moved) << name;
    EXPECT_TRUE(at::equal(linear->dense_weight(), wanted.at(name)->weight)) << name;
    moves += moved ? 1 : 0;
  }
  EXPECT_EQ(moves, 3);
}

// What is exported is the adapter merged into the values.
TEST_F(Fp8Run, MergedIsTheModelThatWasTrained) {
  TrainConfig config = on(kPerBlock, "merged", "dora");
  Trainer trainer(config);
  trainer.run();
  trainer.model().eval();
  const at::NoGradGuard no_grad;
  const ModelInput input = ModelInput::make(at::arange(20, 60), {40});
  const at::Tensor trained = trainer.model().logits(input);
  const auto dense = load_model(OpenCheckpoint(config.checkpoint.pretrained_checkpoint),
                                base_build(at::kFloat, "16"));
  const at::Tensor before = dense->logits(input);
  load_adapter(*dense, config.checkpoint.save);
  EXPECT_EQ(merge_adapters(*dense), 12);
  EXPECT_EQ(merge_adapters(trainer.model()), 12);
  EXPECT_GT((trained - before).abs().max().item<double>(), 1e-2);
  for (const Ministral3* model : {dense.get(), &trainer.model()}) {
    EXPECT_LE((model->logits(input) - trained).abs().max().item<double>(), 1e-4);
  }
}

TEST_F(Fp8Run, ACodeThatIsNoNumberIsNamed) {
  TrainConfig config = on(kPerTensor, "nan", "lora");
  const fs::path file = fs::path(config.checkpoint.pretrained_checkpoint) / "model.safetensors";
  auto tensors = testing::read_safetensors(file);
  for (auto& [name, tensor] : tensors) {
    if (name != "language_model.model.layers.1.mlp.down_proj.weight") continue;
    tensor = tensor.clone();
    tensor.view(at::kByte)[3][5] = 0xff;
  }
  testing::write_safetensors(file, tensors);
  for (const char* bits : {"fp8", "16"}) {
    EXPECT_REFUSED(losses(with_bits(config, bits)), "step 1: the loss is nan in rows",
                   "first bad: parameter "
                   "language_model.decoder.layers.1.mlp.linear_fc2.weight");
  }
}

// logger.log_params_norm, which reads what the optimizer does not have from the model.
TEST_F(Fp8Run, TheNormOfAllWeightsIsTheDenseModels) {
  TrainConfig config = on(kPerTensor, "norm", "lora");
  config.train.train_iters = 1;
  config.scheduler.lr_warmup_iters = 0;
  config.logger.log_params_norm = true;
  const auto got = run(with_bits(config, "fp8")), wanted = run(with_bits(config, "16"));
  ASSERT_TRUE(got[0].params_norm && wanted[0].params_norm);
  EXPECT_NEAR(*got[0].params_norm, *wanted[0].params_norm, 1e-5 * *wanted[0].params_norm);
}

}  // namespace
}  // namespace trestle
