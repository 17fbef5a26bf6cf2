// Ten steps by hand, as the goldens were recorded (tools/goldens/README.md). Included by the tests
// of the optimizer.
#pragma once

#include "data/batch.h"
#include "golden.h"
#include "kernels/optimizer.h"

namespace trestle::testing {

/// The parameters that train.
inline AdamW::NamedTensors trainable(const Ministral3& model) {
  AdamW::NamedTensors parameters;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().requires_grad()) parameters.emplace_back(entry.key(), entry.value());
  }
  return parameters;
}

inline Batch batch_of(const Golden& golden) { return {golden.input(), golden.shifted_labels()}; }

inline at::Tensor mean_loss(const Ministral3& model, const Batch& batch) {
  const auto [sum, targets] = model.loss_sum(batch.input, batch.labels_T);
  return sum / targets;
}

/// Ten steps on one batch have these losses, and these norms of gradients where any are given.
inline void expect_ten_steps(const Ministral3& model, const Batch& batch, AdamWOptions options,
                             double learning_rate, const at::Tensor& losses,
                             const at::Tensor& norms = {}) {
  options.clip_grad = 1;
  AdamW optimizer(trainable(model), options);
  for (int64_t step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = mean_loss(model, batch);
    EXPECT_NEAR(loss.item<double>(), losses[step].item<double>(), 1e-4) << "step " << step;
    loss.backward();
    const double norm = optimizer.grad_norm().item<double>();
    optimizer.clip(norm);
    if (norms.defined()) {
      EXPECT_NEAR(norm, norms[step].item<double>(), 1e-4 * norm) << "step " << step;
    }
    optimizer.step(learning_rate);
  }
}

/// Ten steps from the adapter that `model` has, on the data of golden/tied, and what it then says.
inline void expect_adapter_run(const Ministral3& model, const Golden& golden) {
  const Batch batch = batch_of(Golden("tied"));
  expect_ten_steps(model, batch, {.weight_decay = 0}, 1e-2, golden["losses"], golden["grad_norms"]);
  const at::NoGradGuard no_grad;
  expect_near(mean_loss(model, batch), golden["loss_after"], 1e-4, "loss after");
  expect_near(model.logits(batch.input), golden["final.logits"], 1e-3, "final logits");
}

}  // namespace trestle::testing
