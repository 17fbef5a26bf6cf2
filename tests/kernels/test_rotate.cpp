// rotate() and rotated_parts() by CUDA kernels that the emulator runs: values and gradients against
// the formula in fp64.
#include <torch/csrc/autograd/autograd.h>

#include "kernels/cuda_testing.h"
#include "kernels/emulated.h"
#include "kernels/rotate.h"

namespace trestle {
namespace {

using namespace testing;
using Calls = std::map<std::string, int64_t>;

Rotation random_rotation(int64_t tokens, int64_t head_dim, at::ScalarType type) {
  const at::Tensor half = at::randn({tokens, head_dim / 2}).mul_(4);
  const at::Tensor angles = at::cat({half, half}, -1);
  return {angles.cos().to(type), angles.sin().to(type)};
}

Rotation exact_of(const Rotation& rotation) { return {exact(rotation.cos), exact(rotation.sin)}; }

// The results of `function` of x and the gradient of x under `ups`.
std::vector<at::Tensor> by_autograd(const at::Tensor& x, const std::vector<at::Tensor>& ups,
                                    const auto& function) {
  const at::Tensor leaf = x.detach().requires_grad_();
  std::vector<at::Tensor> results = function(leaf);
  torch::autograd::backward(results, ups);
  for (at::Tensor& result : results) result = result.detach();
  results.push_back(leaf.grad());
  return results;
}

std::vector<at::Tensor> exact_all(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& each : tensors) all.push_back(exact(each));
  return all;
}

void expect_same(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& wanted,
                 const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    expect_exact(got[i], wanted[i], fmt::format("{}, result {}", what, i));
  }
}

void expect_rotate(const at::Tensor& x, const at::Tensor& up, const std::string& what) {
  const Rotation rotation = random_rotation(x.size(0), x.size(-1), x.scalar_type());
  const auto wanted = by_autograd(exact(x), {exact(up)}, [&](const at::Tensor& leaf) {
    return std::vector{rotate(leaf, exact_of(rotation))};
  });
  const EmulatedKernels kernels;
  const auto got = by_autograd(
      x, {up}, [&](const at::Tensor& leaf) { return std::vector{rotate(leaf, rotation)}; });
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"rope", 2}})) << what;
  expect_same(got, wanted, what);
}

TEST(RotateByKernels, IsTheFormulaAndItsGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{1, 1, 2}, {5, 3, 64}, {7, 2, 3, 10}, {3, 24}}) {
      expect_rotate(at::randn(shape).to(type), at::randn(shape).to(type),
                    c10::str(type, " ", at::IntArrayRef(shape)));
    }
  }
}

TEST(RotateByKernels, TakesTensorsThatDoNotLieBesideEachOther) {
  expect_rotate(at::randn({3, 5, 8}).transpose(0, 1), at::randn({5, 3, 8}), "turned");
  expect_rotate(at::randn({121}).narrow(0, 1, 120).view({5, 3, 8}), at::randn({5, 3, 8}),
                "not aligned");
  expect_rotate(at::randn({5, 3, 8}), at::ones({1, 1, 1}).expand({5, 3, 8}), "one gradient");
}

TEST(RotateByKernels, WithoutGradientsIsTheForwardAlone) {
  const Rotation rotation = random_rotation(5, 8, at::kFloat);
  const EmulatedKernels kernels;
  EXPECT_FALSE(rotate(at::randn({5, 3, 8}), rotation).requires_grad());
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"rope", 1}}));
  EXPECT_THROW(rotate(at::randn({4, 3, 8}), rotation), c10::Error);
}

struct Shape {
  int64_t tokens, groups, heads, head_dim;
};

void expect_parts(const Shape& shape, at::ScalarType type, bool scaled, bool turned) {
  const auto [T, G, N, H] = shape;
  const std::string what = c10::str(type, " ", T, " ", G, " ", N, " ", H, scaled ? " scaled" : "",
                                    turned ? " turned" : "");
  const Rotation rotation = random_rotation(T, H, type);
  const at::Tensor scale = scaled ? at::rand({T, 1, 1, 1}).add_(1).to(type) : at::Tensor();
  const at::Tensor qkv = turned ? at::randn({G, T, N + 2, H}).to(type).transpose(0, 1)
                                : at::randn({T, G, N + 2, H}).to(type);
  const std::vector<at::Tensor> ups = {at::randn({T, G, N, H}).to(type),
                                       at::randn({G, T, H}).to(type).transpose(0, 1),
                                       at::randn({T, G, H}).to(type)};
  const auto parts = [](const QueriesKeysValues& all) {
    return std::vector{all.q_TGNH, all.k_TGH, all.v_TGH};
  };
  const at::Tensor exact_scale = scaled ? exact(scale) : scale;
  const auto wanted = by_autograd(exact(qkv), exact_all(ups), [&](const at::Tensor& leaf) {
    return parts(rotated_parts(leaf, exact_of(rotation), exact_scale));
  });
  const EmulatedKernels kernels;
  const auto got = by_autograd(qkv, ups, [&](const at::Tensor& leaf) {
    return parts(rotated_parts(leaf, rotation, scale));
  });
  EXPECT_EQ(EmulatedKernels::calls(), (Calls{{"rope", 4}})) << what;
  expect_same(got, wanted, what);
}

TEST(RotatedPartsByKernels, AreTheFormulaAndItsGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const bool scaled : {false, true}) {
      for (const Shape& shape : {Shape{1, 1, 1, 2}, {5, 2, 3, 64}, {3, 1, 4, 10}, {9, 3, 1, 16}}) {
        expect_parts(shape, type, scaled, false);
        expect_parts(shape, type, scaled, true);
      }
    }
  }
}

TEST(RotatedPartsByKernels, KeepNothingOfTheFusedProjection) {
  const EmulatedKernels kernels;
  const Rotation rotation = random_rotation(5, 8, at::kFloat);
  const at::Tensor qkv = at::randn({5, 2, 4, 8}).requires_grad_();
  const QueriesKeysValues parts = rotated_parts(qkv, rotation, {});
  for (const at::Tensor& part : {parts.q_TGNH, parts.k_TGH, parts.v_TGH}) {
    EXPECT_TRUE(part.is_contiguous() && part.requires_grad());
    EXPECT_FALSE(part.is_alias_of(qkv));
    EXPECT_EQ(part.storage().nbytes(), part.nbytes());
  }
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(rotated_parts(qkv, rotation, {}).q_TGNH.requires_grad());
}

}  // namespace
}  // namespace trestle
