// RMSNorm's CUDA kernels, run on the CPU, against the formula in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "cuda/rms_norm.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

constexpr double kEps = 1e-5;

struct Shape {
  int64_t rows, columns;
};
// Whole vectors and single elements, less than a warp, more rows than blocks for the weight's
// gradient.
const std::vector<Shape> kShapes = {{0, 64},  {1, 33},   {3, 7},    {2, 128},  {5, 1000},
                                    {2, 257}, {1, 3072}, {1, 5120}, {531, 40}, {529, 1160}};

struct Norm {
  at::Tensor x, weight, up;
};

Norm random_norm(const Shape& shape, at::ScalarType type) {
  at::manual_seed(shape.rows + shape.columns);
  return {fenced(at::randn({shape.rows, shape.columns}).mul_(3).to(type)),
          fenced(at::randn({shape.columns}).add_(1).to(type)),
          fenced(at::randn({shape.rows, shape.columns}).to(type))};
}

// y, 1 / rms, dx, dweight.
std::vector<at::Tensor> by_kernels(const Norm& norm, bool in_place, bool weight_trains) {
  const int64_t rows = norm.x.size(0), columns = norm.x.size(1);
  const at::ScalarType type = norm.x.scalar_type();
  at::Tensor y = fenced_empty({rows, columns}, type), inverse = fenced_empty({rows}, at::kFloat);
  EXPECT_EQ(cuda::rms_norm_forward({.type = type_of(norm.x),
                                    .rows = rows,
                                    .columns = columns,
                                    .eps = kEps,
                                    .x = norm.x.const_data_ptr(),
                                    .weight = norm.weight.const_data_ptr(),
                                    .y = y.mutable_data_ptr(),
                                    .inverse_rms = inverse.mutable_data_ptr<float>()},
                                   nullptr),
            0);
  const at::Tensor up = fenced(norm.up);
  at::Tensor dx = in_place ? up : fenced_empty({rows, columns}, type);
  at::Tensor dweight = fenced_empty({weight_trains ? columns : 0}, type);
  at::Tensor partial = fenced_empty({cuda::rms_norm_partials(rows), columns}, at::kFloat);
  EXPECT_EQ(
      cuda::rms_norm_backward({.type = type_of(norm.x),
                               .rows = rows,
                               .columns = columns,
                               .up = up.const_data_ptr(),
                               .x = norm.x.const_data_ptr(),
                               .weight = norm.weight.const_data_ptr(),
                               .inverse_rms = inverse.const_data_ptr<float>(),
                               .dx = dx.mutable_data_ptr(),
                               .dweight = weight_trains ? dweight.mutable_data_ptr() : nullptr,
                               .partial = partial.mutable_data_ptr<float>()},
                              nullptr),
      0);
  return {y, inverse, dx, dweight};
}

TEST(RmsNormCuda, IsTheFormulaAndItsGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : kShapes) {
      const std::string what =
          fmt::format("{} [{}, {}]", c10::toString(type), shape.rows, shape.columns);
      const Norm norm = random_norm(shape, type);
      const at::Tensor x = exact(norm.x).requires_grad_();
      const at::Tensor weight = exact(norm.weight).requires_grad_();
      const at::Tensor inverse = at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + kEps);
      const at::Tensor y = weight * (x * inverse);
      torch::autograd::backward({y}, {exact(norm.up)});
      const auto got = in_every_order([&] { return by_kernels(norm, false, true); });
      expect_exact(got[0], y.detach(), what, /*roundings=*/2);
      expect_near(got[1], inverse.detach().view({-1}), 1e-6, what + ", 1 / rms");
      expect_exact(got[2], x.grad(), what + ", dx");
      expect_exact(got[3], weight.grad(), what + ", dweight", /*roundings=*/3);
      // Without the weight's gradient, and into the memory of `up`.
      const auto lora = in_every_order([&] { return by_kernels(norm, true, false); });
      EXPECT_TRUE(at::equal(lora[2], got[2])) << what;
    }
  }
}

TEST(RmsNormCuda, RoundsWhereTheModelDoes) {
  const Norm norm = random_norm({4, 3072}, at::kBFloat16);
  const at::Tensor wide = norm.x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + kEps);
  const at::Tensor y = norm.weight * normed.to(at::kBFloat16);
  const at::Tensor got = by_kernels(norm, false, false)[0];
  // A sum in another order may carry one in a thousand over the edge of a rounding.
  EXPECT_LE(got.ne(y).sum().item<int64_t>(), y.numel() / 1000);
}

TEST(RmsNormCuda, TakesRowsThatAreNotAligned) {
  const Norm aligned = random_norm({3, 64}, at::kBFloat16);
  const auto moved = [](const at::Tensor& tensor) {
    const at::Tensor memory = at::empty({tensor.numel() + 1}, tensor.options());
    return memory.narrow(0, 1, tensor.numel()).view(tensor.sizes()).copy_(tensor);
  };
  const Norm odd{moved(aligned.x), moved(aligned.weight), moved(aligned.up)};
  const auto got = by_kernels(odd, false, true), wanted = by_kernels(aligned, false, true);
  for (const size_t i : {0, 2, 3}) {
    expect_near(got[i], exact(wanted[i]), 1e-3, fmt::format("result {}", i));
  }
}

TEST(RmsNormCuda, RefusesRowsThatNoBlockHolds) {
  EXPECT_NE(cuda::rms_norm_forward({.type = cuda::Type::kFloat, .rows = 1, .columns = 16388}, {}),
            0);
  EXPECT_NE(cuda::rms_norm_backward({.type = cuda::Type::kFloat, .rows = 1, .columns = 6148}, {}),
            0);
}

}  // namespace
}  // namespace trestle
