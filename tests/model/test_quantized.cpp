// A projection whose weight is quantised against the same projection with the quantised values in a
// dense weight. That the values are bitsandbytes' is tests/bridge/test_quantized.cpp's.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "model/linear.h"

namespace trestle {
namespace {

constexpr int64_t kIn = 144, kOut = 600;  // two blocks and a rest; over one block of DoRA's rows

double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

struct Pair {
  std::shared_ptr<Linear> quantized, dense;
};

// Both with the same values, bias and adapter.
Pair make_pair(int64_t bits, at::ScalarType dtype, bool dora, double dropout = 0) {
  at::manual_seed(5);
  const auto make = [&](int64_t weight_bits) {
    auto linear = std::make_shared<Linear>(kIn, kOut, Build{dtype, at::kCPU, weight_bits}, true);
    linear->attach(std::make_shared<Adapter>(
        kIn, kOut, FusedLayout::plain(),
        AdapterSpec{.pairs = {{"", 4, 8}}, .dropout = dropout, .dora = dora},
        at::TensorOptions().dtype(dtype)));
    return linear;
  };
  const Pair pair{make(bits), make(16)};
  const at::NoGradGuard no_grad;
  pair.quantized->quantized()->set_rows(0, at::randn({kOut, kIn}) * 0.3);
  pair.dense->weight.copy_(pair.quantized->dense_weight());
  for (auto& entry : pair.dense->named_parameters()) {
    if (entry.key() == "weight") continue;
    entry.value().copy_(at::randn(entry.value().sizes()) * 0.3);
    pair.quantized->named_parameters()[entry.key()].copy_(entry.value());
  }
  pair.dense->weight.requires_grad_(false);
  pair.quantized->weight.requires_grad_(false);
  return pair;
}

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;  // of x, and of bias and adapter in their order
};

Result run(const Linear& linear) {
  at::manual_seed(6);
  const auto dtype = linear.weight.scalar_type();
  const at::Tensor x = at::randn({9, kIn}).to(dtype).requires_grad_();
  const at::Tensor up = at::randn({9, kOut}).to(dtype);
  std::vector<at::Tensor> leaves = {x};
  for (const auto& entry : linear.named_parameters()) {
    if (entry.value().requires_grad()) leaves.push_back(entry.value());
  }
  at::manual_seed(7);  // of the dropout
  const at::Tensor y = linear.forward(x);
  return {y.detach(), torch::autograd::grad({y}, leaves, {up})};
}

TEST(Quantized, ForwardAndGradientsAreTheDenseOnes) {
  for (const int64_t bits : {4, 8}) {
    for (const bool dora : {false, true}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        for (const double dropout : {0.0, 0.3}) {
          const Pair pair = make_pair(bits, dtype, dora, dropout);
          const Result got = run(*pair.quantized), wanted = run(*pair.dense);
          const double tolerance = dtype == at::kFloat ? 1e-6 : 1.0 / 128;
          EXPECT_LE(relative_error(got.y, wanted.y), tolerance) << bits << dora << dtype;
          ASSERT_EQ(got.gradients.size(), dora ? 5u : 4u);
          for (size_t i = 0; i < got.gradients.size(); ++i) {
            EXPECT_LE(relative_error(got.gradients[i], wanted.gradients[i]), tolerance)
                << bits << dora << dtype << " gradient " << i;
          }
        }
      }
    }
  }
}

TEST(Quantized, ManyTilesAreOneMatrix) {
  constexpr int64_t kRows = 3000, kColumns = 1600;  // 19.2 MB in fp32: over a tile either way
  QuantizedWeight weight(kRows, kColumns, 4);
  for (int64_t row = 0; row < kRows; row += 700) {
    weight.set_rows(row, at::randn({std::min<int64_t>(700, kRows - row), kColumns}));
  }
  const at::Tensor dense = weight.dense(at::kFloat);
  EXPECT_TRUE(at::equal(weight.dense({1203, 55}, {128, 200}, at::kFloat),
                        dense.narrow(0, 1203, 55).narrow(1, 128, 200)));
  EXPECT_TRUE(at::equal(weight.dense(at::kBFloat16), dense.to(at::kBFloat16)));
  const at::Tensor x = at::randn({5, kColumns}).requires_grad_();
  const at::Tensor y = quantized_linear(x, weight);
  EXPECT_LE(relative_error(y, at::linear(x.to(at::kDouble), dense.to(at::kDouble))), 1e-5);
  const at::Tensor up = at::randn({5, kRows});
  const auto down = torch::autograd::grad({y}, {x}, {up});
  EXPECT_LE(relative_error(down[0], at::mm(up.to(at::kDouble), dense.to(at::kDouble))), 1e-5);
}

// What is kept for backward must not be the values: they would be the dense model again.
TEST(Quantized, BackwardKeepsCodesOnly) {
  const QuantizedWeight weight(4, 64, 4);
  const at::Tensor x = at::randn({2, 64}).requires_grad_();
  const auto codes = weight.codes().use_count();
  const at::Tensor y = quantized_linear(x, weight);
  EXPECT_GT(weight.codes().use_count(), codes);
  EXPECT_FALSE(quantized_linear(x.detach(), weight).requires_grad());
}

TEST(Quantized, ZerosStayZerosAndWhatIsNotFiniteShows) {
  for (const int64_t bits : {4, 8}) {
    QuantizedWeight weight(3, 100, bits);
    at::Tensor values = at::randn({3, 100});
    values[1].zero_();
    values[1][70] = 1e-39;  // 127 / it is infinite
    weight.set_rows(0, values);
    EXPECT_TRUE(weight.absmax().isfinite().all().item<bool>());
    EXPECT_LE(weight.dense(at::kFloat)[1].abs().max().item<double>(), 1.1e-39);
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      values[2][99] = bad;
      weight.set_rows(0, values);
      EXPECT_TRUE(weight.absmax()[2][1].isnan().item<bool>());
      EXPECT_TRUE(weight.absmax()[2][0].isfinite().item<bool>());
    }
  }
}

TEST(Quantized, InferenceBeforeTraining) {
  const Pair pair = make_pair(4, at::kFloat, true);
  at::Tensor inferred;
  {
    const c10::InferenceMode inference;
    inferred = pair.quantized->forward(at::ones({2, kIn})).clone();
  }
  const at::Tensor y = pair.quantized->forward(at::ones({2, kIn}));
  EXPECT_TRUE(at::equal(y.detach(), inferred));
  y.sum().backward();
  EXPECT_TRUE(pair.quantized->adapter()->whole()->magnitude.grad().defined());
}

}  // namespace
}  // namespace trestle
