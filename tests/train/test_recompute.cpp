// Recomputed activations: gradients to the bit, adapters with dropout on frozen bases among them;
// and what is frozen costs no graph.
#include <gtest/gtest.h>

#include "golden.h"
#include "memory.h"
#include "peft/lora.h"

namespace trestle {
namespace {

using testing::Golden;
using Gradients = std::map<std::string, at::Tensor>;

constexpr Recompute kSelective{.granularity = Recompute::Granularity::kSelective};

Recompute full(Recompute::Method method, int64_t num_layers) {
  return {Recompute::Granularity::kFull, method, num_layers};
}

const std::vector<Recompute>& every_way() {
  using Method = Recompute::Method;
  static const std::vector<Recompute> ways = {kSelective, full(Method::kUniform, 1),
                                              full(Method::kUniform, 2), full(Method::kBlock, 2)};
  return ways;
}

struct Setting {
  const char* name;
  at::ScalarType dtype = at::kFloat;
  /// Empty: the weights train.
  std::string scheme = {};
  double dropout = 0;
  /// Of the parameters that freeze, where weights train.
  std::string frozen = {};
};

std::shared_ptr<Ministral3> make_model(const Setting& setting, const Golden& golden) {
  auto model = golden.model(setting.dtype);
  model->train();
  if (!setting.scheme.empty()) {
    LoraConfig config;
    config.scheme = setting.scheme;
    config.dim = 4;
    config.dropout = setting.dropout;
    config.lora_B_init_method = "xavier";
    attach_lora(*model, config, 5);
  } else if (!setting.frozen.empty()) {
    for (const auto& entry : model->named_parameters()) {
      if (entry.key().starts_with(setting.frozen)) entry.value().requires_grad_(false);
    }
  }
  return model;
}

// Loss, gradients and the random state behind them.
Gradients run(Ministral3& model, const Golden& golden) {
  at::manual_seed(3);
  const at::Tensor loss = model.loss_sum(golden.input(), golden.shifted_labels()).first;
  Gradients result = {{"loss", loss.detach()}};
  loss.backward();
  for (const auto& entry : model.named_parameters()) {
    at::Tensor parameter = entry.value();
    // Some that train may get none: vision layers behind the one that gives the features.
    EXPECT_TRUE(parameter.requires_grad() || !parameter.grad().defined()) << entry.key();
    if (parameter.grad().defined()) result[entry.key()] = parameter.grad();
    parameter.mutable_grad() = at::Tensor();
  }
  result["random numbers"] = at::rand({4});
  return result;
}

class EverySetting : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(
    Settings, EverySetting,
    ::testing::Values(Setting{"full"}, Setting{"bf16", at::kBFloat16},
                      Setting{"lora", at::kFloat, "lora", 0.3},
                      Setting{"lora_bf16", at::kBFloat16, "lora", 0.3},
                      Setting{"dora", at::kFloat, "dora", 0.3},
                      Setting{"frozen_language", at::kFloat, {}, 0, "language_model."},
                      Setting{"frozen_vision", at::kFloat, {}, 0, "vision_tower."}),
    [](const auto& info) { return info.param.name; });

TEST_P(EverySetting, GradientsAreTheSameBits) {
  const Golden golden("untied");
  const auto model = make_model(GetParam(), golden);
  const Gradients wanted = run(*model, golden);
  ASSERT_GE(wanted.size(), 10u);
  for (const Recompute& way : every_way()) {
    model->set_recompute(way);
    const Gradients got = run(*model, golden);
    ASSERT_EQ(got.size(), wanted.size());
    for (const auto& [name, gradient] : wanted) {
      EXPECT_TRUE(at::equal(got.at(name), gradient)) << name;
    }
  }
}

TEST(RecomputeMemory, FullHoldsLessThanSelectiveThanNone) {
  const Golden golden("untied");
  const auto model = make_model({"lora", at::kFloat, "lora", 0.3}, golden);
  // Of unlike lengths: of like ones attention keeps q, k and v, which is what selective keeps too.
  const at::Tensor ids_T = golden["input_ids"].flatten().clone();
  const int64_t T = ids_T.size(0), first = T / 3 + 1;
  const ModelInput input = ModelInput::make(ids_T, {first, T - first - 2, 2}, golden.images());
  const at::Tensor labels_T = golden.shifted_labels();
  const auto held = [&](const Recompute& way) {
    model->set_recompute(way);
    return testing::held_bytes([&] { return model->loss_sum(input, labels_T).first; });
  };
  const auto peak = [&](const Recompute& way) {
    model->set_recompute(way);
    return testing::peak_bytes([&] { run(*model, golden); });
  };
  const Recompute layers = full(Recompute::Method::kUniform, 1);
  EXPECT_LT(held(kSelective), held({}));
  EXPECT_LT(held(layers), held(kSelective));
  EXPECT_LT(peak(layers), peak({}));
}

TEST(Recompute, IsAPlainCallWithoutGradients) {
  const Golden golden("untied");
  const auto model = make_model({"full"}, golden);
  model->set_recompute(full(Recompute::Method::kUniform, 1));
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(model->logits(golden.input()), golden.model()->logits(golden.input())));
}

TEST(Frozen, FeaturesAndEmbeddingsOfALoraRunAreConstants) {
  const Golden golden("untied");
  const auto model = make_model({"lora", at::kFloat, "lora"}, golden);
  const ModelInput input = golden.input();
  for (const at::Tensor& made : {model->image_features(input.images_CHW), model->embed(input)}) {
    EXPECT_FALSE(made.requires_grad());
    EXPECT_EQ(made.grad_fn(), nullptr);
  }
  EXPECT_TRUE(model->hidden(input).requires_grad());
}

TEST(Frozen, ATowerAndProjectorHaveNoGraphBesideALanguageModelThatTrains) {
  const Golden golden("untied");
  const auto model = make_model({"vision", at::kFloat, {}, 0, "vision_tower."}, golden);
  const std::vector<at::Tensor> images = golden.images();
  const auto [patches_PD, grid] = model->vision_tower()->patches({images.front()});
  const at::Tensor hidden_PD = model->vision_tower()->forward(patches_PD, grid);
  EXPECT_EQ(hidden_PD.grad_fn(), nullptr);
  EXPECT_TRUE(model->image_features(images).requires_grad());
  for (at::Tensor& parameter : model->projector()->parameters()) parameter.requires_grad_(false);
  const at::Tensor features = model->image_features(images);
  EXPECT_FALSE(features.requires_grad());
  EXPECT_EQ(features.grad_fn(), nullptr);
}

}  // namespace
}  // namespace trestle
