// The model against transformers in fp32: every stage, logits, loss and all gradients. The first
// stage that departs is named. Goldens: tools/make_goldens.py.
#include "checkpoint/hf_layout.h"
#include "cpu/cpu.h"
#include "flash_on_cpu.h"
#include "golden.h"

namespace trestle {
namespace {

using testing::expect_near;
using testing::Golden;

class ModelGolden : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, ModelGolden,
                         ::testing::Values("tied", "untied", "mistral", "text"),
                         [](const auto& info) { return std::string(info.param); });

// users' pain point 16: scale from wrong positions.
TEST_P(ModelGolden, EveryStage) {
  const Golden golden(GetParam());
  const auto model = golden.model();
  const at::NoGradGuard no_grad;
  const auto compare = [&](const at::Tensor& got, const std::string& stage) {
    ASSERT_TRUE(golden.has("stage." + stage)) << stage;
    expect_near(got, golden["stage." + stage], 1e-4, stage);
  };
  const ModelInput input = golden.input();
  if (!input.images_CHW.empty()) {
    const VisionTower& tower = *model->vision_tower();
    auto [x_PD, grid] = tower.patches(input.images_CHW);
    compare(x_PD, "vision.ln_pre");
    const Rotation rotation = tower.rotation(grid, x_PD.scalar_type());
    for (size_t i = 0; i < tower.num_layers(); ++i) {
      x_PD = tower.layer(i, x_PD, rotation, grid);
      compare(x_PD, fmt::format("vision.layers.{}", i));
    }
    compare(model->image_features(input.images_CHW), "projector.out");
  }
  at::Tensor x_TD = model->embed(input);
  compare(x_TD, "text.embed");
  const LanguageModel& language = model->language_model();
  const LayerContext context =
      language.context(input.positions_T.to(x_TD.device()), input.packing, nullptr, at::kFloat);
  expect_near(context.rotation.cos.narrow(0, 0, golden["rope.cos"].size(0)), golden["rope.cos"],
              1e-6, "rope.cos");
  for (size_t i = 0; i < language.num_layers(); ++i) {
    x_TD = language.layers(x_TD, i, i + 1, context);
    compare(x_TD, fmt::format("text.layers.{}", i));
  }
  compare(language.final_norm(x_TD), "text.norm");
  expect_near(language.head(x_TD), golden["logits"], 1e-4, "logits");
}

void expect_loss_and_gradients(const Golden& golden) {
  const auto model = golden.model();
  const auto [sum, targets] = model->loss_sum(golden.input(), golden.shifted_labels());
  const at::Tensor loss = sum / targets;
  expect_near(loss, golden["loss"], 1e-5, "loss");
  loss.backward();

  // Gradients are compared under Hugging Face's names, split by the same table as weights.
  std::map<std::string, at::Tensor> wanted_of;
  for (const auto& [name, info] : golden.tensors.tensors()) {
    if (name.starts_with("grad.")) wanted_of[canonical_name(name.substr(5))] = golden[name];
  }
  const auto parameters = model->named_parameters();
  size_t compared = 0;
  for (const Mapping& mapping : mappings(model->config())) {
    at::Tensor gradient = parameters[mapping.megatron].grad();
    // Layers above the feature layer do not run; transformers runs them for nothing.
    if (!gradient.defined()) {
      for (const std::string& name : mapping.hf) {
        EXPECT_EQ(wanted_of.at(name).abs().max().item<float>(), 0) << name;
        ++compared;
      }
      continue;
    }
    const auto parts = mapping.hf.size() > 1 ? mapping.layout.split(gradient, 0)
                                             : std::vector<at::Tensor>{gradient};
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSERT_TRUE(wanted_of.contains(mapping.hf[i])) << mapping.hf[i];
      EXPECT_LE(testing::relative_error(parts[i], wanted_of[mapping.hf[i]]), 1e-4) << mapping.hf[i];
      ++compared;
    }
  }
  EXPECT_EQ(compared, wanted_of.size());
}

TEST_P(ModelGolden, LossAndGradients) { expect_loss_and_gradients(Golden(GetParam())); }

// The way of a card.
TEST_P(ModelGolden, LossAndGradientsByAttentionOfPackedRows) {
  if (!testing::test_device().is_cpu()) GTEST_SKIP() << "stands in for a card";
  const testing::FlashOnCpu flash;
  expect_loss_and_gradients(Golden(GetParam()));
  EXPECT_GE(flash.counts().forwards, 2);
  EXPECT_EQ(flash.counts().backwards, flash.counts().forwards);
}

TEST(ModelGolden, Bf16KeepsTheDirectionOfTheLogits) {
  const Golden golden("tied");
  const at::NoGradGuard no_grad;
  const at::Tensor logits =
      golden.model(at::kBFloat16)->logits(golden.input()).to(at::kCPU, at::kFloat).flatten();
  const at::Tensor wanted = golden["logits"].flatten();
  const double cosine = (at::dot(logits, wanted) / (logits.norm() * wanted.norm())).item<double>();
  EXPECT_GT(cosine, 0.999);
}

// ||got - wanted|| over ||wanted|| of the logits and of all gradients, in bf16.
struct Bf16Errors {
  double logits, gradients;
};

Bf16Errors bf16_errors(const Golden& golden, Bf16Path path) {
  const ForcedBf16Path forced(path);
  const auto model = golden.model(at::kBFloat16);
  const auto exact = golden.model();
  const auto error = [](const at::Tensor& got, const at::Tensor& wanted) {
    return ((got.to(at::kFloat) - wanted).norm() / wanted.norm()).item<double>();
  };
  at::Tensor logits;
  {
    const at::NoGradGuard no_grad;
    logits = model->logits(golden.input());
  }
  const auto gradients = [&](Ministral3& of) {
    of.loss_sum(golden.input(), golden.shifted_labels()).first.backward();
    std::vector<at::Tensor> all;
    for (const at::Tensor& parameter : of.parameters()) {
      if (parameter.grad().defined()) all.push_back(parameter.grad().flatten().to(at::kFloat));
    }
    return at::cat(all);
  };
  return {error(logits, golden["logits"].view_as(logits)),
          error(gradients(*model), gradients(*exact))};
}

TEST_P(ModelGolden, Bf16IsNoWorseWidened) {
  const Golden golden(GetParam());
  const Bf16Errors native = bf16_errors(golden, Bf16Path::kNative);
  const Bf16Errors widened = bf16_errors(golden, Bf16Path::kWidened);
  EXPECT_LT(native.logits, 0.05);
  EXPECT_LE(widened.logits, 1.1 * native.logits);
  EXPECT_LE(widened.gradients, 1.1 * native.gradients);
}

}  // namespace
}  // namespace trestle
