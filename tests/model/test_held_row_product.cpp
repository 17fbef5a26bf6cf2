// Products of a few rows with a held weight read its codes: on the CPU by vectors, on a card by
// kernels, which the emulator runs here.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "host_reads.h"
#include "kernels/emulated.h"
#include "linear/fp8_weight.h"
#include "linear/quantized.h"
#include "model/held_weight.h"

namespace trestle {
namespace {

using testing::EmulatedKernels, testing::error_of_values;

// Values of which a row product's are made: rounded to no dtype but FP8's own.
struct Held {
  std::string name;
  at::Tensor values;
  std::function<at::Tensor(const at::Tensor&)> product;
};

Held quantized(int64_t rows, int64_t columns, int64_t bits) {
  auto weight = std::make_shared<QuantizedWeight>(rows, columns, bits);
  weight->set_rows(0, at::randn({rows, columns}));
  return {fmt::format("{} bits", bits), weight->dense(at::kFloat).to(at::kDouble),
          [weight](const at::Tensor& x) { return quantized_linear(x, *weight); }};
}

Held fp8(int64_t rows, int64_t columns, int64_t block) {
  const at::Tensor bytes = at::randint(256, {rows, columns}, at::kByte);
  const at::Tensor codes =
      bytes.masked_fill(bytes.bitwise_and(127).eq(127), 3).view(at::kFloat8_e4m3fn);
  const int64_t grid = (columns + block - 1) / block;
  auto weight = std::make_shared<Fp8Weight>(
      codes, Fp8Scales{at::rand({2, grid}) + 0.1, at::randint(2, {rows}, at::kInt), block});
  return {fmt::format("FP8, blocks of {}", block), weight->dense(at::kFloat).to(at::kDouble),
          [weight](const at::Tensor& x) { return fp8_linear(x, *weight); }};
}

void expect_products(const Held& held, const char* kernel) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    // One row, those of each instance, and more than are few.
    for (const int64_t rows : {1, 3, 8, 9}) {
      const at::Tensor x = at::randn({rows, held.values.size(1)}).to(dtype);
      const at::Tensor wanted = at::mm(x.to(at::kDouble), held.values.t());
      const std::string told = fmt::format("{}, {} rows, {}", held.name, rows, toString(dtype));
      const double limit = dtype == at::kFloat ? 1e-6 : 1.0 / 128;
      EXPECT_LE(error_of_values(held.product(x), wanted), limit) << told;
      if (rows == 1 && dtype == at::kBFloat16) {
        // Rounded once, and not the weight too.
        EXPECT_LE((held.product(x).to(at::kDouble) - wanted).norm().item<double>(),
                  1.001 * 0x1p-8 * wanted.norm().item<double>())
            << told;
      }
      const EmulatedKernels kernels;
      EXPECT_LE(error_of_values(held.product(x), wanted), limit) << told;
      if (rows <= 8) {
        EXPECT_EQ(EmulatedKernels::calls()[kernel], 1) << told;
      }
    }
  }
}

TEST(HeldRowProduct, IsThatOfTheValues) {
  at::manual_seed(3);
  const c10::InferenceMode inference;
  // Whole blocks, a part of one, an odd number, fewer than a vector.
  for (const int64_t columns : {128, 200, 67, 5}) {
    expect_products(quantized(7, columns, 4), "row_product_nf4");
    expect_products(quantized(7, columns, 8), "row_product_int8");
    for (const int64_t block : {columns, int64_t{128}, int64_t{24}}) {
      expect_products(fp8(7, columns, block), "row_product_fp8");
    }
  }
}

// Few rows make no values of the weight, and so no product of matrices.
TEST(HeldRowProduct, IsNoProductOfMatrices) {
  const c10::InferenceMode inference;
  for (const Held& held : {quantized(7, 128, 4), quantized(7, 128, 8), fp8(7, 128, 128)}) {
    for (const int64_t rows : {8, 9}) {
      const at::Tensor x = at::randn({rows, 128});
      testing::SeenOperators seen;
      testing::see_operators(seen, [&] { held.product(x); });
      const bool has_product = std::ranges::any_of(seen.calls, [](const std::string& call) {
        return call.starts_with("aten::mm") || call.starts_with("aten::matmul") ||
               call.starts_with("aten::linear") || call.starts_with("aten::addmm");
      });
      EXPECT_EQ(has_product, rows > 8) << held.name;
    }
  }
}

TEST(HeldRowProduct, NaNOfAWeightStays) {
  const c10::InferenceMode inference;
  const at::Tensor codes = at::full({2, 3}, 0x7F, at::kByte).view(at::kFloat8_e4m3fn);
  const Fp8Weight weight(codes, {at::ones({1, 1}), at::zeros({2}, at::kInt), 3});
  EXPECT_TRUE(fp8_linear(at::ones({1, 3}), weight).isnan().all().item<bool>());
}

TEST(HeldRowProduct, IsNotTakenWhereAGradientIsAskedFor) {
  at::manual_seed(4);
  const Held held = quantized(7, 128, 8);
  const at::Tensor x = at::randn({2, 128}).requires_grad_();
  held.product(x).sum().backward();
  EXPECT_LE(error_of_values(x.grad()[0], held.values.sum(0)), 1e-6);
}

}  // namespace
}  // namespace trestle
