// Adapters on a quantised base against peft on a dense model with bitsandbytes' values
// (tools/make_quantized_goldens.py): logits, gradients and ten steps.
#include <gtest/gtest.h>

#include "errors.h"
#include "golden.h"
#include "peft/lora.h"
#include "peft/sites.h"
#include "recipes/recipes.h"
#include "train/steps.h"

namespace trestle {
namespace {

using testing::expect_near;
using testing::Golden;

struct QuantizedRun {
  const char* name;
  int64_t bits;
};

class QuantizedBase : public ::testing::TestWithParam<QuantizedRun> {
 protected:
  // The gradients of a pair, or a failure, under peft's names.
  void expect_gradients(const LowRank& pair, const std::string& hf) const {
    // canonical "model.layers..." -> "model.language_model.layers..."
    const std::string name = "grad.base_model.model.model.language_model" + hf.substr(5);
    const auto expect = [&](const at::Tensor& parameter, const char* what) {
      EXPECT_LE(testing::relative_error(parameter.grad(), golden_[name + what]), 1e-4)
          << name << what;
    };
    expect(pair.a, ".lora_A.weight");
    expect(pair.b, ".lora_B.weight");
    if (pair.magnitude.defined()) expect(pair.magnitude, ".lora_magnitude_vector");
  }

  const Golden data_{"tied"};
  const Golden golden_{std::string("tied/") + GetParam().name};
  const std::shared_ptr<Ministral3> model_ =
      load_model(OpenCheckpoint("golden/tied"), {at::kFloat, at::kCPU, GetParam().bits});
};

INSTANTIATE_TEST_SUITE_P(Bits, QuantizedBase,
                         ::testing::Values(QuantizedRun{"lora_4bit", 4},
                                           QuantizedRun{"lora_8bit", 8},
                                           QuantizedRun{"dora_4bit", 4}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(QuantizedBase, TenStepsArePefts) {
  const AdapterSummary summary = load_adapter(*model_, golden_.directory);
  EXPECT_FALSE(summary.changes_nothing);
  {
    const at::NoGradGuard no_grad;
    expect_near(model_->logits(data_.input()), golden_["logits"], 1e-4, "logits");
  }
  testing::mean_loss(*model_, testing::batch_of(data_)).backward();
  size_t compared = 0;
  for (const AdapterSite& site : adapter_sites(*model_)) {
    const auto& adapter = site.linear->adapter();
    if (!adapter) continue;
    if (adapter->whole()) expect_gradients(*adapter->whole(), site.hf.front());
    for (size_t i = 0; i < adapter->pairs().size(); ++i) {
      expect_gradients(*adapter->pairs()[i], site.hf[i]);
    }
    compared += site.hf.size();
  }
  EXPECT_EQ(compared, 21u);

  testing::expect_adapter_run(*model_, golden_);
}

// DoRA starts with the norms of the quantised weight, so that it changes nothing.
TEST(QuantizedStart, DoraStartsAsTheQuantisedBase) {
  const auto model = load_model(OpenCheckpoint("golden/tied"), {at::kFloat, at::kCPU, 4});
  const at::NoGradGuard no_grad;
  const ModelInput input = Golden("tied").input();
  const at::Tensor before = model->logits(input);
  LoraConfig config;
  config.scheme = "dora";
  config.dim = 4;
  attach_lora(*model, config, 1);
  EXPECT_TRUE(at::equal(model->logits(input), before));
}

TEST(QuantizedConfig, WhatCannotBeIsRefused) {
  const auto refusal = [](const char* scheme, int64_t bits) {
    LoraConfig config;
    config.scheme = scheme;
    config.base_bits = fmt::format("{}", bits);
    return testing::refusal_of([&] { config.validate(); });
  };
  for (const int64_t bits : {4, 8, 16}) EXPECT_EQ(refusal("lora", bits), std::nullopt);
  EXPECT_EQ(refusal("", 16), std::nullopt);
  EXPECT_EQ(refusal("lora", 5), "peft.base_bits=5: must be one of auto, fp8, 4, 8, 16");
  EXPECT_EQ(refusal("", 4),
            "peft.base_bits=4 holds the weights in a form that cannot train; set peft.scheme to "
            "lora or dora, or peft.base_bits to 16");
}

}  // namespace
}  // namespace trestle
