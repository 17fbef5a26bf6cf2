// rms_norm() by CUDA kernels that the emulator runs: its values and gradients against the formula
// in fp64, and that the kernels made them.
#include <torch/csrc/autograd/autograd.h>

#include "kernels/cuda_kernels.h"
#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"
#include "kernels/rms_norm.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

constexpr double kEps = 1e-5;

struct Case {
  at::Tensor x, weight, up;
  bool x_trains = true, weight_trains = true;
};

// y, dx and dweight; what has no gradient is undefined.
std::vector<at::Tensor> by_autograd(const Case& norm, bool in_fp64) {
  const auto leaf = [&](const at::Tensor& tensor, bool trains) {
    return (in_fp64 ? exact(tensor) : tensor.detach()).requires_grad_(trains);
  };
  const at::Tensor x = leaf(norm.x, norm.x_trains), weight = leaf(norm.weight, norm.weight_trains);
  const at::Tensor y = in_fp64
                           ? weight * (x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + kEps))
                           : rms_norm(x, weight, kEps);
  torch::autograd::backward({y}, {in_fp64 ? exact(norm.up) : norm.up});
  return {y.detach(), x.grad(), weight.grad()};
}

void expect_the_formula(const Case& norm, const std::string& what) {
  const EmulatedKernels kernels;
  const auto got = by_autograd(norm, false);
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"rms_norm_forward", 1}, {"rms_norm_backward", 1}}))
      << what;
  const auto wanted = by_autograd(norm, true);
  expect_exact(got[0], wanted[0], what + ", y", /*roundings=*/2);
  for (const size_t i : {1, 2}) {
    ASSERT_EQ(got[i].defined(), wanted[i].defined()) << what << ", gradient " << i;
    if (!got[i].defined()) continue;
    EXPECT_EQ(got[i].scalar_type(), norm.x.scalar_type());
    expect_exact(got[i], wanted[i], fmt::format("{}, gradient {}", what, i), /*roundings=*/3);
  }
}

Case random_case(at::IntArrayRef shape, at::ScalarType type) {
  return {at::randn(shape).mul_(3).to(type), at::randn({shape.back()}).add_(1).to(type),
          at::randn(shape).to(type)};
}

TEST(RmsNormByKernels, IsTheFormulaAndItsGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
             {1, 33}, {7, 64}, {2, 3, 40}, {5, 1000}, {3, 7}, {600, 16}}) {
      const Case norm = random_case(shape, type);
      const std::string what = c10::str(type, " ", at::IntArrayRef(shape));
      expect_the_formula(norm, what);
      expect_the_formula({norm.x, norm.weight, norm.up, true, false}, what + ", frozen weight");
      expect_the_formula({norm.x, norm.weight, norm.up, false, true}, what + ", frozen x");
    }
  }
}

TEST(RmsNormByKernels, TakesTensorsThatDoNotLieBesideEachOther) {
  const Case norm = random_case({6, 24}, at::kFloat);
  const at::Tensor columns = at::randn({24, 6}).t(), moved = at::randn({150}).narrow(0, 1, 144);
  expect_the_formula({columns, norm.weight, norm.up}, "x turned");
  expect_the_formula({moved.view({6, 24}), norm.weight, norm.up}, "x that is not aligned");
  expect_the_formula({norm.x, norm.weight, at::ones({1, 1}).expand({6, 24})}, "one gradient");
}

TEST(RmsNormByKernels, KeepsNothingWithoutGradients) {
  const Case norm = random_case({6, 24}, at::kFloat);
  const at::Tensor weight = norm.weight.clone().requires_grad_();
  const EmulatedKernels kernels;
  const at::NoGradGuard no_grad;
  const at::Tensor y = rms_norm(norm.x, weight, kEps);
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"rms_norm_forward", 1}}));
}

// That of a frozen weight costs memory and a launch.
TEST(RmsNormByKernels, AsksForTheWeightsGradientWhereItTrains) {
  static bool asked;
  static cuda::Kernels watched = cuda::all_kernels();
  watched.rms_norm_backward = [](const cuda::RmsNormBackward& args, cuda::Stream stream) {
    asked = args.dweight != nullptr;
    return cuda::rms_norm_backward(args, stream);
  };
  const EmulatedKernels restored_at_the_end;
  install_kernels(&watched, at::kCPU);
  Case norm = random_case({6, 24}, at::kFloat);
  for (const bool trains : {true, false}) {
    norm.weight_trains = trains;
    by_autograd(norm, false);
    EXPECT_EQ(asked, trains);
  }
}

// A row that no kernel takes, two dtypes and fp64 are libtorch's.
TEST(RmsNormByKernels, LeavesWhatNoKernelTakes) {
  const EmulatedKernels kernels;
  const Case wide = random_case({1, 6145}, at::kFloat), norm = random_case({6, 24}, at::kFloat);
  rms_norm(wide.x, wide.weight, kEps);
  rms_norm(norm.x, norm.weight.to(at::kBFloat16), kEps);
  rms_norm(norm.x.to(at::kDouble), norm.weight.to(at::kDouble), kEps);
  EXPECT_EQ(EmulatedKernels::calls(), Calls());
  EXPECT_THROW(rms_norm(norm.x, norm.weight.narrow(0, 0, 23), kEps), c10::Error);
}

}  // namespace
}  // namespace trestle
