// swiglu() by CUDA kernels that the emulator runs: its values and gradients against the formula in
// fp64, of one tensor and of two.
#include <torch/csrc/autograd/autograd.h>

#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"
#include "kernels/swiglu.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

at::Tensor formula(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

// y and the gradients of `inputs`.
std::vector<at::Tensor> by_autograd(const at::TensorList inputs, const at::Tensor& up,
                                    const auto& function) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& each : inputs) leaves.push_back(each.detach().requires_grad_());
  const at::Tensor y = function(leaves);
  torch::autograd::backward({y}, {up});
  std::vector<at::Tensor> results = {y.detach()};
  for (const at::Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

void expect_the_formula(const at::Tensor& gate_up, const at::Tensor& up, const std::string& what) {
  const EmulatedKernels kernels;
  const auto exact_halves = exact(gate_up).chunk(2, -1);
  const auto wanted = by_autograd(exact_halves, exact(up),
                                  [](const auto& halves) { return formula(halves[0], halves[1]); });
  const auto one = by_autograd({gate_up}, up, [](const auto& x) { return swiglu(x[0]); });
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"swiglu_forward", 1}, {"swiglu_backward", 1}}));
  const auto two = by_autograd(gate_up.chunk(2, -1), up,
                               [](const auto& halves) { return swiglu(halves[0], halves[1]); });
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"swiglu_forward", 1}, {"swiglu_backward", 1}}));
  expect_exact(one[0], wanted[0], what + ", y");
  expect_exact(one[1], at::cat({wanted[1], wanted[2]}, -1), what + ", gradient");
  for (size_t i = 0; i < 3; ++i) expect_exact(two[i], wanted[i], fmt::format("{} {}", what, i));
}

TEST(SwigluByKernels, IsTheFormulaAndItsGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 7}, {5, 136}, {17, 9}, {2, 1000}}) {
      const at::Tensor gate_up = at::randn({rows, 2 * columns}).mul_(2).to(type);
      expect_the_formula(gate_up, at::randn({rows, columns}).to(type),
                         c10::str(type, " ", rows, " x ", columns));
    }
  }
}

TEST(SwigluByKernels, TakesTensorsThatDoNotLieBesideEachOther) {
  const at::Tensor turned = at::randn({24, 6}).t(), moved = at::randn({145}).narrow(0, 1, 144);
  expect_the_formula(turned, at::randn({6, 12}), "turned");
  expect_the_formula(moved.view({6, 24}), at::randn({6, 12}), "not aligned");
  expect_the_formula(at::randn({6, 24}), at::ones({1, 1}).expand({6, 12}), "one gradient");
  expect_the_formula(at::randn({2, 3, 24}), at::randn({2, 3, 12}), "of three dimensions");
}

TEST(SwigluByKernels, TrainsOneOfTwo) {
  const EmulatedKernels kernels;
  const at::Tensor gate = at::randn({3, 8}), up = at::randn({3, 8}).requires_grad_();
  swiglu(gate, up).sum().backward();
  EXPECT_FALSE(gate.grad().defined());
  expect_near(up.grad(), at::silu(exact(gate)), 1e-6, "dup");
}

TEST(SwigluByKernels, KeepsNothingWithoutGradients) {
  const EmulatedKernels kernels;
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(swiglu(at::randn({3, 8}).requires_grad_()).requires_grad());
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"swiglu_forward", 1}}));
}

}  // namespace
}  // namespace trestle
