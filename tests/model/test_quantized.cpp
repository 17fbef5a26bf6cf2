// A projection whose weight is quantised against the same projection with the quantised values in a
// dense weight. That the values are bitsandbytes' is tests/bridge/test_quantized.cpp's.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "kernels/emulated.h"
#include "model/held_weight.h"

namespace trestle {
namespace {

using namespace testing;

constexpr int64_t kIn = 144, kOut = 600;  // two blocks and a rest; over one block of DoRA's rows

HeldForm held(int64_t bits, at::ScalarType dtype = at::kFloat) {
  return {kIn, kOut, Build{dtype, at::kCPU, bits}, [](Linear& linear) {
            linear.quantized()->set_rows(0, at::randn({kOut, kIn}) * 0.3);
          }};
}

TEST(Quantized, ForwardAndGradientsAreTheDenseOnes) {
  for (const int64_t bits : {4, 8}) {
    expect_dense_results([&](at::ScalarType dtype) { return held(bits, dtype); },
                         std::to_string(bits));
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
  EXPECT_LE(error_of_values(y, at::linear(x.to(at::kDouble), dense.to(at::kDouble))), 1e-5);
  const at::Tensor up = at::randn({5, kRows});
  const auto down = torch::autograd::grad({y}, {x}, {up});
  EXPECT_LE(error_of_values(down[0], at::mm(up.to(at::kDouble), dense.to(at::kDouble))), 1e-5);
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

TEST(Quantized, InferenceBeforeTraining) { expect_training_behind_inference(held(4)); }

// Tiles from any block on, of odd sizes, by the emulator.
TEST(Quantized, ACardsKernelsMakeTheSameBits) {
  for (const int64_t bits : {4, 8}) {
    QuantizedWeight weight(37, 301, bits);
    weight.set_rows(0, at::randn({37, 301}));
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const auto& [rows, columns] :
           std::vector<std::pair<IndexRange, IndexRange>>{{{0, 37}, {0, 301}},
                                                          {{5, 9}, {64, 128}},
                                                          {{36, 1}, {256, 45}},
                                                          {{3, 0}, {0, 301}}}) {
        const at::Tensor wanted = weight.dense(rows, columns, dtype);
        const EmulatedKernels kernels;
        EXPECT_TRUE(at::equal(weight.dense(rows, columns, dtype), wanted)) << bits << dtype;
        EXPECT_EQ(EmulatedKernels::calls().size(), 1u);
      }
    }
  }
}

}  // namespace
}  // namespace trestle
