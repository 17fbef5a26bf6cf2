// LoRA against peft on the same initial adapter and data, in both forms: an A for each projection,
// and one A for a fused one.
#include <gtest/gtest.h>

#include "golden.h"
#include "peft/lora.h"
#include "train/optimizer.h"

namespace trestle {
namespace {

using testing::expect_near;
using testing::Golden;

AdamW::NamedTensors trained(const Ministral3& model) {
  AdamW::NamedTensors parameters;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().requires_grad()) parameters.emplace_back(entry.key(), entry.value());
  }
  return parameters;
}

// Ten AdamW steps on the golden's batch, as tools/goldens/lora.py makes them.
void expect_ten_losses(const Ministral3& model, const Golden& batch, const Golden& golden) {
  const AdamW::NamedTensors parameters = trained(model);
  AdamW optimizer(parameters, {.weight_decay = 0});
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const auto [sum, targets] = model.loss_sum(batch.input(), batch.shifted_labels());
    const at::Tensor loss = sum / targets;
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), golden["losses"][step].item<double>(), 1e-4)
        << "step " << step;
    clip_grad_norm(parameters, 1.0);
    optimizer.step(1e-2);
  }
  const at::NoGradGuard no_grad;
  expect_near(model.logits(batch.input()), golden["final.logits"], 1e-3, "final logits");
}

TEST(Lora, PeftFormLearnsAsPeft) {
  const Golden batch("tied"), golden("tied/lora");
  const auto model = batch.model();
  const AdapterSummary summary = load_adapter(*model, golden.directory);
  EXPECT_GT(summary.modules, 0);
  EXPECT_LT(summary.trainable, summary.total);
  {
    const at::NoGradGuard no_grad;
    expect_near(model->logits(batch.input()), golden["logits"], 1e-4, "logits with the adapter");
  }
  expect_ten_losses(*model, batch, golden);
}

TEST(Lora, MegatronFormLearnsAsASharedA) {
  const Golden batch("tied"), golden("tied/lora_shared");
  const auto model = batch.model();
  LoraConfig config;
  config.scheme = "lora";
  config.dim = 4;
  config.alpha = 8;
  attach_lora(*model, config, 1);
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, parameter] : trained(*model)) {
      ASSERT_TRUE(golden.has(name)) << name;
      at::Tensor(parameter).copy_(golden[name]);
    }
    expect_near(model->logits(batch.input()), golden["logits"], 1e-4, "logits with the adapter");
  }
  expect_ten_losses(*model, batch, golden);
}

TEST(Lora, MergedEqualsAttached) {
  const Golden batch("tied"), golden("tied/lora");
  const auto model = batch.model();
  load_adapter(*model, golden.directory);
  EXPECT_GT(merge_adapters(*model), 0);
  const at::NoGradGuard no_grad;
  expect_near(model->logits(batch.input()), golden["logits"], 1e-4, "merged logits");
  EXPECT_EQ(merge_adapters(*model), 0);
}

}  // namespace
}  // namespace trestle
