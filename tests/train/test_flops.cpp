// What a step costs: against counts by hand, and against the products that libtorch really makes.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "bridge/load.h"
#include "kernels/optimizer.h"
#include "metrics/flops.h"
#include "model/ministral3.h"
#include "parallel/grid.h"
#include "peft/lora.h"
#include "train/params_norm.h"

namespace trestle {
namespace {

// fixtures/hf. Text: D 48, F 80, V 288, 6 heads of 12 in 2 groups, 3 layers; vision: D 24, F 40, 2
// heads of 12, 2 layers, patches of 4 x 4 in 3 channels, merged 2 x 2.
std::shared_ptr<Ministral3> fixture(int64_t bits = 16) {
  return load_model(OpenCheckpoint("fixtures/hf"), {at::kFloat, at::kCPU, bits});
}

LoraConfig lora(const std::vector<std::string>& targets) {
  LoraConfig config;
  config.scheme = "lora";
  config.dim = 4;
  config.alpha = 4;
  config.dropout = 0;
  config.target_modules = targets;
  return config;
}

// Ten tokens of text, or six image tokens (of a picture of 4 x 6 patches) and two of text.
ModelInput text() { return ModelInput::make(at::arange(20, 30), {10}); }
ModelInput picture() {
  return ModelInput::make(at::cat({at::full({6}, 10, at::kLong), at::arange(20, 22)}), {8},
                          {at::zeros({3, 16, 24})});
}

TEST(Flops, AreThoseOfACountByHand) {
  const auto model = fixture();
  const ModelFlops all(*model);
  // Weights of a layer: qkv 48 x 120, proj 72 x 48, fc1 48 x 160, fc2 80 x 48. Each takes 2
  // operations a token forward, and as many for each of two gradients.
  const double layer = 48 * 120 + 72 * 48 + 48 * 160 + 80 * 48;
  const double tokens = 10 * 3 * layer * 6;
  const double attention = 55 * 3 * 4 * 72 * 3;  // 10 * 11 / 2 pairs, 3 layers
  const double head = 4 * 48 * 288 * 6;          // 4 targets
  EXPECT_EQ(tokens + attention + head, 4'206'816);
  EXPECT_EQ(all.of(text(), {}, 4), 4'206'816);
  // Two sequences see less of each other; 2 * (5 * 6 / 2) pairs.
  EXPECT_EQ(all.of(ModelInput::make(at::arange(20, 30), {5, 5}), {}, 4),
            tokens + 30 * 3 * 4 * 72 * 3 + head);

  // Of the patches no gradient is made: pixels do not train.
  const double patch = 48 * 24 * 4 + 2 * (4 * 24 * 24 + 3 * 24 * 40) * 6;
  const double vision =
      24 * patch + 24 * 24 * 2 * 4 * 24 * 3 + 6 * (96 * 24 + 24 * 48 + 48 * 48) * 6;
  EXPECT_EQ(vision, 2'142'720);
  const ModelInput input = picture();
  EXPECT_EQ(all.of(input, input.images_CHW, 4) - all.of(input, {}, 4), vision);

  attach_lora(*model, lora({"linear_qkv"}), 1);
  // No gradient flows below the first adapter, none to a frozen weight.
  const double pair = 4 * 48 * 4 + 4 * 120 * 6;
  const double rest = (72 * 48 + 48 * 160 + 80 * 48) * 4;
  const double first = 48 * 120 * 2 + pair + rest;
  const double later = 48 * 120 * 4 + 2 * 48 * 4 + pair + rest;
  const double adapted = 10 * (first + 2 * later) + attention + 4 * 48 * 288 * 4;
  EXPECT_EQ(adapted, 2'853'984);
  EXPECT_EQ(ModelFlops(*model).of(text(), {}, 4), adapted);
}

// The products that libtorch makes while it runs, as shapes of aten::mm and aten::addmm_ say.
double products(const Ministral3& model, const ModelInput& input, const at::Tensor& labels_T) {
  static double sum;
  sum = 0;
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction& fn) -> std::unique_ptr<at::ObserverContext> {
            const std::string_view name = fn.name();
            const size_t first = name == "aten::mm" ? 0 : name == "aten::addmm_" ? 1 : 9;
            if (first == 9) return nullptr;
            const at::Tensor a = fn.inputs()[first].toTensor(),
                             b = fn.inputs()[first + 1].toTensor();
            sum += 2.0 * static_cast<double>(a.size(0) * a.size(1) * b.size(1));
            return nullptr;
          })
          .needsInputs(true)
          .scopes({at::RecordScope::FUNCTION}));
  const at::Tensor loss = model.loss_sum(input, labels_T).first;
  if (loss.requires_grad()) loss.backward();
  at::removeCallback(handle);
  return sum;
}

struct Case {
  const char* name;
  std::vector<std::string> adapters;
  std::vector<std::string> frozen;
  bool with_picture;
  /// Layers whose attention is run backward.
  int text_layers, vision_layers;
};

class Counted : public testing::TestWithParam<Case> {};

TEST_P(Counted, AreTheProductsThatAreMade) {
  const Case& given = GetParam();
  const auto model = fixture();
  if (!given.adapters.empty()) attach_lora(*model, lora(given.adapters), 1);
  for (const auto& entry : model->named_parameters()) {
    for (const std::string& prefix : given.frozen) {
      if (entry.key().starts_with(prefix)) entry.value().requires_grad_(false);
    }
  }
  const ModelInput input = given.with_picture ? picture() : text();
  const int64_t tokens = input.packing.tokens();
  const at::Tensor labels = at::full({tokens}, -100, at::kLong);
  labels.slice(0, tokens - 2).fill_(30);
  double made = products(*model, input, labels);
  // A head that trains makes its logits once more for its own gradient, which is not counted.
  if (model->language_model().head_weight().requires_grad()) made -= 2 * 2.0 * 48 * 288;
  // Attention is no mm.
  const double pairs = static_cast<double>(tokens * (tokens + 1)) / 2;
  made += pairs * 4 * 72 * (3 + 2 * given.text_layers);
  if (given.with_picture) made += 24 * 24 * 4 * 24 * (2 + 2 * given.vision_layers);
  EXPECT_EQ(ModelFlops(*model).of(input, input.images_CHW, 2), made);
}

const std::string kText = "language_model.", kVision = "vision_tower.",
                  kProjector = "multi_modal_projector.";

INSTANTIATE_TEST_SUITE_P(
    Runs, Counted,
    testing::Values(
        Case{"full_text", {}, {}, false, 3, 0}, Case{"full_picture", {}, {}, true, 3, 2},
        Case{"frozen_tower", {}, {kVision}, true, 3, 0},
        Case{"frozen_tower_and_projector", {}, {kVision, kProjector}, true, 3, 0},
        Case{"projector_alone", {}, {kVision, kText}, true, 3, 0},
        Case{"tower_alone_without_pictures", {}, {kProjector, kText}, false, 0, 0},
        Case{"lora", {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"}, {}, true, 3, 0},
        Case{"lora_of_mlp", {"linear_fc2"}, {}, false, 2, 0},
        Case{"lora_of_towers",
             {"linear_fc1", "vision.q_proj", "projector.linear_1"},
             {},
             true,
             3,
             2}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ParamsNorm, IsThatOfAllWeights) {
  for (const int64_t bits : {16, 8}) {
    const auto model = fixture(bits);
    attach_lora(*model, lora({"linear_qkv"}), 1);
    AdamW::NamedTensors trained;
    double squares = 0;
    for (const auto& entry : model->named_parameters()) {
      if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
      if (!entry.value().is_meta()) squares += entry.value().detach().pow(2).sum().item<double>();
    }
    for (const auto& module : model->modules(false)) {
      auto* linear = dynamic_cast<Linear*>(module.get());
      if (linear == nullptr || !linear->weight.is_meta()) continue;
      squares += linear->dense_weight().pow(2).sum().item<double>();
    }
    AdamW optimizer(trained, {});
    const Grid one;
    const ParamsNorm norm(*model, optimizer, one, /*shared_out=*/false);
    EXPECT_NEAR(norm.now(), std::sqrt(squares), 1e-5 * std::sqrt(squares));
    const double before = norm.now();
    for (const auto& [name, parameter] : trained) {
      parameter.mutable_grad() = at::ones_like(parameter);
    }
    optimizer.step(0.1);
    EXPECT_GT(std::abs(norm.now() - before), 1e-3);
  }
}

}  // namespace
}  // namespace trestle
