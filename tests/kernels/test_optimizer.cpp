// AdamW by CUDA kernels that the emulator runs, against libtorch's fused step on the same
// parameters.
#include <cmath>
#include <limits>

#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"
#include "kernels/optimizer.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

constexpr AdamWOptions kOptions{.weight_decay = 0.1, .lora_plus_ratio = 4, .clip_grad = 1};

// All four groups, both dtypes, of odd sizes; "idle" never has a gradient.
AdamW::NamedTensors random_parameters() {
  at::manual_seed(3);
  const auto leaf = [](at::IntArrayRef shape, at::ScalarType type) {
    return at::randn(shape).to(type).requires_grad_();
  };
  return {{"a.weight", leaf({7, 9}, at::kBFloat16)},
          {"a.bias", leaf({33}, at::kFloat)},
          {"a.adapter.linear_in.weight", leaf({2, 9}, at::kFloat)},
          {"a.adapter.linear_out.weight", leaf({7, 2}, at::kBFloat16)},
          {"a.adapter.weight_magnitude", leaf({7}, at::kBFloat16)},
          {"idle", leaf({4, 5}, at::kFloat)},
          {"large", leaf({3, 5555}, at::kBFloat16)}};
}

void set_gradients(const AdamW& optimizer, uint64_t seed, bool turned = false) {
  at::manual_seed(seed);
  for (const auto& [name, parameter] : optimizer.parameters()) {
    if (name == "idle") continue;
    at::Tensor gradient = at::randn_like(parameter);
    if (turned && name == "a.weight") gradient = gradient.t().contiguous().t();
    at::Tensor(parameter).mutable_grad() = gradient.detach();
  }
}

double exact_norm(const AdamW& optimizer) {
  double squares = 0;
  for (const auto& [name, parameter] : optimizer.parameters()) {
    if (!parameter.grad().defined()) continue;
    squares += exact(parameter.grad()).square().sum().item<double>();
  }
  return std::sqrt(squares);
}

void three_steps(AdamW& optimizer, bool turned = false) {
  for (uint64_t step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    set_gradients(optimizer, step, turned);
    const double norm = optimizer.grad_norm().item<double>();
    EXPECT_NEAR(norm / exact_norm(optimizer), 1, 1e-5);
    optimizer.clip(norm);
    optimizer.step(1e-2, 0.1 * static_cast<double>(step));
  }
}

TEST(AdamWByKernels, IsLibtorchsInOneLaunchAStep) {
  AdamW wanted(random_parameters(), kOptions), got(random_parameters(), kOptions);
  three_steps(wanted);
  const EmulatedKernels kernels;
  three_steps(got, /*turned=*/true);
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"gradient_norm", 3}, {"adamw", 3}}));
  const auto wanted_state = wanted.state(), state = got.state();
  for (size_t i = 0; i < state.size(); ++i) {
    // A bf16 gradient is rounded once more where it is scaled before the step.
    const bool once = state[i].first.ends_with("bias") || state[i].first.ends_with("in.weight") ||
                      state[i].first.ends_with("idle");
    expect_near(state[i].second, exact(wanted_state[i].second), once ? 1e-5 : 4e-3, state[i].first);
  }
  for (size_t i = 0; i < got.parameters().size(); ++i) {
    const auto& [name, parameter] = got.parameters()[i];
    EXPECT_TRUE(at::equal(parameter, state[3 * i].second.to(parameter.scalar_type()))) << name;
  }
}

TEST(AdamWByKernels, ClipsWhereItIsAskedTo) {
  const auto after = [](bool clipped, double clip_grad) {
    AdamWOptions options = kOptions;
    options.clip_grad = clip_grad;
    options.eps = 1;  // so that the size of a gradient counts
    AdamW optimizer(random_parameters(), options);
    set_gradients(optimizer, 0);
    const double norm = optimizer.grad_norm().item<double>();
    if (clipped) optimizer.clip(norm);
    optimizer.step(1e-2);
    return optimizer.state()[3].second.clone();
  };
  const at::Tensor plain = after(false, 1), plain_at_most_1 = after(true, 1);
  const EmulatedKernels kernels;
  expect_near(after(false, 1), exact(plain), 1e-6, "not asked");
  expect_near(after(true, 0), exact(plain), 1e-6, "no bound");
  expect_near(after(true, 1), exact(plain_at_most_1), 1e-6, "clipped");
  EXPECT_FALSE(at::allclose(plain, plain_at_most_1));
}

TEST(AdamWByKernels, LeavesAllAsItWasWhereANormIsNoNumber) {
  const EmulatedKernels kernels;
  AdamW optimizer(random_parameters(), kOptions);
  set_gradients(optimizer, 0);
  optimizer.parameters()[1].second.grad()[0] = std::numeric_limits<float>::infinity();
  std::vector<at::Tensor> before;
  for (const auto& [name, tensor] : optimizer.state()) before.push_back(tensor.clone());
  const double norm = optimizer.grad_norm().item<double>();
  EXPECT_FALSE(std::isfinite(norm));
  optimizer.clip(norm);
  optimizer.step(1e-2);
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(at::equal(optimizer.state()[i].second, before[i])) << i;
  }
}

TEST(AdamWByKernels, CountsAVersionOfWhatItChanges) {
  const EmulatedKernels kernels;
  AdamW optimizer(random_parameters(), kOptions);
  set_gradients(optimizer, 0);
  std::vector<int64_t> before;
  for (const auto& [name, parameter] : optimizer.parameters())
    before.push_back(parameter._version());
  optimizer.step(1e-2);
  for (size_t i = 0; i < before.size(); ++i) {
    const auto& [name, parameter] = optimizer.parameters()[i];
    EXPECT_EQ(parameter._version() > before[i], name != "idle") << name;
  }
}

}  // namespace
}  // namespace trestle
