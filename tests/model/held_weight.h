// A projection whose weight is held in another form than its values', against the same projection
// with those values in a dense weight. Shared by the tests of each form.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "linear/linear.h"

namespace trestle::testing {

/// Of tensors of one shape.
inline double error_of_values(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

struct HeldAndDense {
  std::shared_ptr<Linear> held, dense;
};

/// Both with the same values, bias and adapter. `build` makes the held one, and `fill` gives it its
/// weight.
struct HeldForm {
  int64_t in, out;
  Build build;
  std::function<void(Linear&)> fill;
};
inline HeldAndDense make_pair(const HeldForm& form, bool dora, double dropout = 0) {
  at::manual_seed(5);
  const at::ScalarType dtype = form.build.dtype;
  const auto make = [&](const Build& build) {
    auto linear = std::make_shared<Linear>(form.in, form.out, build, true);
    linear->attach(std::make_shared<Adapter>(
        form.in, form.out, FusedLayout::plain(),
        AdapterSpec{.pairs = {{"", 4, 8}}, .dropout = dropout, .dora = dora},
        at::TensorOptions().dtype(dtype)));
    return linear;
  };
  const HeldAndDense pair{make(form.build), make(Build{dtype})};
  const at::NoGradGuard no_grad;
  form.fill(*pair.held);
  pair.dense->weight.copy_(pair.held->dense_weight());
  for (auto& entry : pair.dense->named_parameters()) {
    if (entry.key() == "weight") continue;
    entry.value().copy_(at::randn(entry.value().sizes()) * 0.3);
    pair.held->named_parameters()[entry.key()].copy_(entry.value());
  }
  pair.dense->weight.requires_grad_(false);
  pair.held->weight.requires_grad_(false);
  return pair;
}

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;  // of x, and of bias and adapter in their order
};

inline Result run(const Linear& linear) {
  at::manual_seed(6);
  const auto dtype = linear.weight.scalar_type();
  const at::Tensor x = at::randn({9, linear.weight.size(1)}).to(dtype).requires_grad_();
  const at::Tensor up = at::randn({9, linear.weight.size(0)}).to(dtype);
  std::vector<at::Tensor> leaves = {x};
  for (const auto& entry : linear.named_parameters()) {
    if (entry.value().requires_grad()) leaves.push_back(entry.value());
  }
  at::manual_seed(7);  // of the dropout
  const at::Tensor y = linear.forward(x);
  return {y.detach(), torch::autograd::grad({y}, leaves, {up})};
}

/// `form` is given a dtype. Forward and gradients, with LoRA and DoRA, with dropout and without.
inline void expect_dense_results(const std::function<HeldForm(at::ScalarType)>& form,
                                 const std::string& name) {
  for (const bool dora : {false, true}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const double dropout : {0.0, 0.3}) {
        const HeldAndDense pair = make_pair(form(dtype), dora, dropout);
        const Result got = run(*pair.held), wanted = run(*pair.dense);
        const double tolerance = dtype == at::kFloat ? 1e-6 : 1.0 / 128;
        EXPECT_LE(error_of_values(got.y, wanted.y), tolerance) << name << dora << dtype;
        ASSERT_EQ(got.gradients.size(), dora ? 5u : 4u);
        for (size_t i = 0; i < got.gradients.size(); ++i) {
          EXPECT_LE(error_of_values(got.gradients[i], wanted.gradients[i]), tolerance)
              << name << dora << dtype << " gradient " << i;
        }
      }
    }
  }
}

/// What is kept of inference, DoRA's norms, is not taken for training's.
inline void expect_training_behind_inference(const HeldForm& form) {
  const HeldAndDense pair = make_pair(form, /*dora=*/true);
  at::Tensor inferred;
  {
    const c10::InferenceMode inference;
    inferred = pair.held->forward(at::ones({2, form.in})).clone();
  }
  const at::Tensor y = pair.held->forward(at::ones({2, form.in}));
  EXPECT_TRUE(at::equal(y.detach(), inferred));
  y.sum().backward();
  EXPECT_TRUE(pair.held->adapter()->whole()->magnitude.grad().defined());
}

}  // namespace trestle::testing
