// SwiGLU's CUDA kernels, run on the CPU, against the formula in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "cuda/swiglu.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

struct Shape {
  int64_t rows, columns;
};
const std::vector<Shape> kShapes = {{0, 8},  {1, 1},    {3, 7},   {2, 136},
                                    {17, 9}, {3, 1000}, {1, 9216}};

// y, dgate and dup of halves that lie beside each other in `fused` [rows, 2 columns], or apart. The
// gradients go to memory of their own or over gate and up.
std::vector<at::Tensor> by_kernels(const at::Tensor& fused, const at::Tensor& dy, bool apart,
                                   bool in_place) {
  const int64_t rows = dy.size(0), columns = dy.size(1);
  const auto halves_of = [&](const at::Tensor& both) {
    std::vector<at::Tensor> halves = both.chunk(2, -1);
    if (apart) halves = {fenced(halves[0]), fenced(halves[1])};
    return halves;
  };
  const at::Tensor own = fenced(fused);
  const std::vector<at::Tensor> from = halves_of(own);
  std::vector<at::Tensor> to =
      in_place ? from : halves_of(fenced_empty(fused.sizes(), fused.scalar_type()));
  const int64_t stride = apart ? columns : 2 * columns;
  at::Tensor y = fenced_empty({rows, columns}, fused.scalar_type());
  EXPECT_EQ(cuda::swiglu_forward({.type = type_of(fused),
                                  .rows = rows,
                                  .columns = columns,
                                  .stride = stride,
                                  .gate = from[0].const_data_ptr(),
                                  .up = from[1].const_data_ptr(),
                                  .y = y.mutable_data_ptr()},
                                 nullptr),
            0);
  EXPECT_EQ(cuda::swiglu_backward({.type = type_of(fused),
                                   .rows = rows,
                                   .columns = columns,
                                   .stride = stride,
                                   .dy = dy.const_data_ptr(),
                                   .gate = from[0].const_data_ptr(),
                                   .up = from[1].const_data_ptr(),
                                   .dgate = to[0].mutable_data_ptr(),
                                   .dup = to[1].mutable_data_ptr()},
                                  nullptr),
            0);
  return {y, to[0].contiguous(), to[1].contiguous()};
}

TEST(SwigluCuda, IsTheFormulaAndItsGradients) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, columns] : kShapes) {
      const std::string what = fmt::format("{} [{}, {}]", c10::toString(type), rows, columns);
      at::manual_seed(rows + columns);
      const at::Tensor fused = at::randn({rows, 2 * columns}).mul_(4).to(type);
      const at::Tensor dy = fenced(at::randn({rows, columns}).to(type));
      const at::Tensor gate = exact(fused.narrow(1, 0, columns)).requires_grad_();
      const at::Tensor up = exact(fused.narrow(1, columns, columns)).requires_grad_();
      const at::Tensor y = gate * at::sigmoid(gate) * up;
      torch::autograd::backward({y}, {exact(dy)});
      const auto got = in_every_order([&] { return by_kernels(fused, dy, false, false); });
      expect_exact(got[0], y.detach(), what);
      expect_exact(got[1], gate.grad(), what + ", dgate");
      expect_exact(got[2], up.grad(), what + ", dup");
      for (const bool apart : {false, true}) {
        const auto again = in_every_order([&] { return by_kernels(fused, dy, apart, true); });
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_TRUE(at::equal(again[i], got[i]))
              << what << ", apart " << apart << ", result " << i;
        }
      }
    }
  }
}

TEST(SwigluCuda, OverflowsNowhere) {
  const at::Tensor gate = at::tensor({-1e4F, -100.F, -88.F, 0.F, 88.F, 100.F, 1e4F, 3e4F});
  const at::Tensor fused = at::cat({gate, at::ones({8})}).view({1, 16});
  const auto got = by_kernels(fused, at::ones({1, 8}), false, false);
  EXPECT_TRUE(at::allclose(got[0], at::silu(gate).view({1, 8})));
  EXPECT_TRUE(at::allclose(got[1], at::sigmoid(gate) * (1 + gate * (1 - at::sigmoid(gate)))));
}

}  // namespace
}  // namespace trestle
