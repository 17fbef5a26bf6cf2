// Each shape of the innermost loop against sums in fp64: of every capability that is here, both
// layouts of weights, and sums that go on.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "cpu/panel_product.h"

namespace trestle {
namespace {

std::vector<float> random_floats(int64_t count) {
  static std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Product {
  const PanelKernel& kernel;
  int64_t depth, weight_stride, depth_stride;
  std::vector<float> panel = random_floats(depth * kernel.rows);
  std::vector<float> weights =
      random_floats((kernel.weights - 1) * weight_stride + (depth - 1) * depth_stride + 1);

  double exact(int64_t w, int64_t row) const {
    double sum = 0;
    for (int64_t k = 0; k < depth; ++k) {
      sum += double{weights[w * weight_stride + k * depth_stride]} *
             double{panel[k * kernel.rows + row]};
    }
    return sum;
  }

  void expect_exact(const std::vector<float>& sums, const std::vector<float>& before) const {
    for (int64_t w = 0; w < kernel.weights; ++w) {
      for (int64_t row = 0; row < kernel.rows; ++row) {
        const int64_t at = w * kernel.rows + row;
        const double wanted = exact(w, row) + (before.empty() ? 0 : double{before[at]});
        ASSERT_NEAR(sums[at], wanted, 1e-6 * depth) << "weight " << w << ", row " << row;
      }
    }
  }
};

class Panel : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Capabilities, Panel, ::testing::Values("DEFAULT", "AVX2", "AVX512"));

TEST_P(Panel, SumsAreThoseOfFp64) {
  if (panel_kernel(GetParam(), 1) == nullptr) GTEST_SKIP() << "no " << GetParam() << " here";
  for (const int64_t rows : {1, 8, 9, 16, 17, 500}) {
    const PanelKernel& kernel = *panel_kernel(GetParam(), rows);
    for (const int64_t depth : {1, 2, 77, 256}) {
      // Weights beside each other in memory along the sum, and across it.
      for (const auto& [along, across] : {std::pair{depth + 3, int64_t{1}}, {int64_t{1}, 40L}}) {
        const Product product{kernel, depth, along, across};
        std::vector<float> sums(kernel.weights * kernel.rows, std::nanf(""));
        kernel.multiply(product.panel.data(), depth, product.weights.data(), along, across,
                        sums.data(), /*add=*/false);
        product.expect_exact(sums, {});
        const std::vector<float> before = random_floats(std::ssize(sums));
        sums = before;
        kernel.multiply(product.panel.data(), depth, product.weights.data(), along, across,
                        sums.data(), /*add=*/true);
        product.expect_exact(sums, before);
      }
    }
  }
}

TEST_P(Panel, FewRowsTakeASmallerPanel) {
  if (panel_kernel(GetParam(), 1) == nullptr) GTEST_SKIP() << "no " << GetParam() << " here";
  const PanelKernel& many = *panel_kernel(GetParam(), 500);
  EXPECT_LT(panel_kernel(GetParam(), 1)->rows, many.rows);
  EXPECT_EQ(panel_kernel(GetParam(), many.rows)->rows, many.rows);
}

}  // namespace
}  // namespace trestle
