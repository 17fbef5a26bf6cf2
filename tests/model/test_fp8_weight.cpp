// A projection whose weight is held in FP8 against the same projection with its values in a dense
// weight. That the values are those of the reader is tests/bridge/test_fp8_base.cpp's.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "model/linear.h"

namespace trestle {
namespace {

constexpr int64_t kIn = 200, kOut = 300;  // no multiple of a block, a tile, a table

double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

at::Tensor random_codes(int64_t rows, int64_t columns) {
  at::Tensor codes = at::randint(0, 256, {rows, columns}, at::kByte);
  return codes.masked_fill_(codes.bitwise_and(0x7f) == 0x7f, 0x3c).view(at::kFloat8_e4m3fn);
}

// Rows and columns that share a scale.
struct Form {
  const char* name;
  int64_t rows, columns;
};
constexpr Form kForms[] = {
    {"matrix", 1 << 20, 1 << 20}, {"row", 1, 1 << 20}, {"block", 128, 128}, {"odd block", 7, 33}};

// With values of about 0.1.
Fp8Weight random_weight(const Form& form, int64_t rows, int64_t columns) {
  const int64_t block_rows = std::min(form.rows, rows), block = std::min(form.columns, columns);
  const at::Tensor grid_row =
      at::arange(rows, at::kLong).div(block_rows, "floor").to(at::kInt).contiguous();
  const int64_t grid_rows = (rows + block_rows - 1) / block_rows;
  return {random_codes(rows, columns),
          {(at::rand({grid_rows, (columns + block - 1) / block}) + 0.1) * 0.002, grid_row, block}};
}

// Value by value, by torch's own conversions.
at::Tensor values_of(const Fp8Weight& weight) {
  const at::Tensor codes = weight.codes().to(at::kFloat);
  const Fp8Scales& scales = weight.scales();
  const at::Tensor columns = at::arange(weight.columns(), at::kLong).div(scales.columns, "floor");
  const at::Tensor scale =
      scales.values.index_select(0, scales.grid_row.to(at::kLong)).index_select(1, columns);
  return (codes * scale).to(at::kBFloat16);
}

TEST(Fp8Weight, ValuesAreCodeTimesScaleRoundedOnce) {
  at::manual_seed(3);
  for (const Form& form : kForms) {
    const Fp8Weight weight = random_weight(form, kOut, kIn);
    const at::Tensor wanted = values_of(weight);
    EXPECT_TRUE(at::equal(weight.dense(at::kBFloat16), wanted)) << form.name;
    EXPECT_TRUE(at::equal(weight.dense(at::kFloat), wanted.to(at::kFloat))) << form.name;
    // Some rows and columns, from wherever.
    EXPECT_TRUE(at::equal(weight.dense({113, 60}, {64, 101}, at::kFloat),
                          wanted.narrow(0, 113, 60).narrow(1, 64, 101).to(at::kFloat)))
        << form.name;
    EXPECT_EQ(weight.dense({5, 0}, {0, kIn}, at::kFloat).numel(), 0);
  }
}

TEST(Fp8Weight, EveryCodeAndEveryKindOfScale) {
  const at::Tensor codes = at::arange(256, at::kInt).to(at::kByte).view({1, 256});
  const at::Tensor repeated = codes.expand({16, 256}).contiguous().view(at::kFloat8_e4m3fn);
  // The last makes bf16's infinity, and one less than its least number.
  for (const float scale : {0.0137F, -3.0F, 0.0F, 1e-40F, 1e38F}) {
    for (const int64_t rows : {int64_t{1}, int64_t{16}}) {  // by a table, and without
      const Fp8Weight weight(repeated.narrow(0, 0, rows).contiguous(),
                             {at::full({1, 1}, scale), at::zeros({rows}, at::kInt), 256});
      const at::Tensor got = weight.dense(at::kFloat), wanted = values_of(weight).to(at::kFloat);
      EXPECT_TRUE(at::allclose(got, wanted, 0, 0, /*equal_nan=*/true)) << scale;
      EXPECT_EQ(got.isnan().sum().item<int64_t>(), 2 * rows) << scale;
    }
  }
}

struct Pair {
  std::shared_ptr<Linear> fp8, dense;
};

// Both with the same values, bias and adapter.
Pair make_pair(const Form& form, at::ScalarType dtype, bool dora, double dropout = 0) {
  at::manual_seed(5);
  const auto make = [&](bool keep_fp8) {
    auto linear = std::make_shared<Linear>(kIn, kOut, Build{dtype, at::kCPU, 16, keep_fp8}, true);
    linear->attach(std::make_shared<Adapter>(
        kIn, kOut, FusedLayout::plain(),
        AdapterSpec{.pairs = {{"", 4, 8}}, .dropout = dropout, .dora = dora},
        at::TensorOptions().dtype(dtype)));
    return linear;
  };
  const Pair pair{make(true), make(false)};
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(pair.fp8->has_values());
  pair.fp8->hold(random_weight(form, kOut, kIn));
  EXPECT_TRUE(pair.fp8->has_values() && pair.fp8->weight.is_meta());
  pair.dense->weight.copy_(pair.fp8->dense_weight());
  for (auto& entry : pair.dense->named_parameters()) {
    if (entry.key() == "weight") continue;
    entry.value().copy_(at::randn(entry.value().sizes()) * 0.3);
    pair.fp8->named_parameters()[entry.key()].copy_(entry.value());
  }
  pair.dense->weight.requires_grad_(false);
  pair.fp8->weight.requires_grad_(false);
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

TEST(Fp8Weight, ForwardAndGradientsAreTheDenseOnes) {
  for (const Form& form : kForms) {
    for (const bool dora : {false, true}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        for (const double dropout : {0.0, 0.3}) {
          const Pair pair = make_pair(form, dtype, dora, dropout);
          const Result got = run(*pair.fp8), wanted = run(*pair.dense);
          const double tolerance = dtype == at::kFloat ? 1e-6 : 1.0 / 128;
          EXPECT_LE(relative_error(got.y, wanted.y), tolerance) << form.name << dora << dtype;
          ASSERT_EQ(got.gradients.size(), dora ? 5u : 4u);
          for (size_t i = 0; i < got.gradients.size(); ++i) {
            EXPECT_LE(relative_error(got.gradients[i], wanted.gradients[i]), tolerance)
                << form.name << dora << dtype << " gradient " << i;
          }
        }
      }
    }
  }
}

TEST(Fp8Weight, ManyTilesAreOneMatrix) {
  constexpr int64_t kRows = 3001, kColumns = 1610;  // 19.3 MB in fp32: over a tile either way
  for (const Form& form : kForms) {
    const Fp8Weight weight = random_weight(form, kRows, kColumns);
    const at::Tensor dense = values_of(weight).to(at::kDouble);
    const at::Tensor x = at::randn({5, kColumns}).requires_grad_();
    const at::Tensor y = fp8_linear(x, weight);
    EXPECT_LE(relative_error(y, at::linear(x.to(at::kDouble), dense)), 1e-5) << form.name;
    const at::Tensor up = at::randn({5, kRows});
    const auto down = torch::autograd::grad({y}, {x}, {up});
    EXPECT_LE(relative_error(down[0], at::mm(up.to(at::kDouble), dense)), 1e-5) << form.name;
  }
}

// DoRA's norms are made of tiles too: those of a weight of many are those of the whole, to the bit.
TEST(Fp8Weight, RowNormsOfManyTilesAreThoseOfTheWhole) {
  constexpr int64_t kRows = 3001, kColumns = 1610;
  for (const bool kept : {false, true}) {
    const auto make = [&](bool keep_fp8) {
      auto linear =
          std::make_shared<Linear>(kColumns, kRows, Build{at::kFloat, at::kCPU, 16, keep_fp8});
      auto adapter = std::make_shared<Adapter>(kColumns, kRows, FusedLayout::plain(),
                                               AdapterSpec{.pairs = {{"", 4, 8}}, .dora = true},
                                               at::TensorOptions());
      at::manual_seed(8);
      const at::NoGradGuard no_grad;
      for (auto& entry : adapter->named_parameters()) entry.value().normal_();
      linear->attach(std::move(adapter));
      return linear;
    };
    const auto held = make(true), dense = make(false);
    const at::NoGradGuard no_grad;
    held->hold(random_weight(kForms[2], kRows, kColumns));
    dense->weight.copy_(held->dense_weight());
    int64_t tiles = 0, rows = 0;
    held->for_dense_rows([&](int64_t first, const at::Tensor& values) {
      EXPECT_EQ(first, rows);
      EXPECT_LE(values.nbytes(), static_cast<size_t>(kTileBytes));
      rows += values.size(0);
      ++tiles;
    });
    EXPECT_EQ(rows, kRows);
    EXPECT_GT(tiles, 1);
    const at::AutoGradMode training(!kept);
    EXPECT_TRUE(at::equal(held->row_norms(), dense->row_norms()));
  }
}

// What is kept for backward must not be the values: they would be the dense model again.
TEST(Fp8Weight, BackwardKeepsCodesOnly) {
  const Fp8Weight weight = random_weight(kForms[0], 4, 64);
  const at::Tensor x = at::randn({2, 64}).requires_grad_();
  const auto codes = weight.codes().use_count();
  const at::Tensor y = fp8_linear(x, weight);
  EXPECT_GT(weight.codes().use_count(), codes);
  EXPECT_FALSE(fp8_linear(x.detach(), weight).requires_grad());
}

TEST(Fp8Weight, InferenceBeforeTraining) {
  const Pair pair = make_pair(kForms[2], at::kFloat, true);
  at::Tensor inferred;
  {
    const c10::InferenceMode inference;
    inferred = pair.fp8->forward(at::ones({2, kIn})).clone();
  }
  const at::Tensor y = pair.fp8->forward(at::ones({2, kIn}));
  EXPECT_TRUE(at::equal(y.detach(), inferred));
  y.sum().backward();
  EXPECT_TRUE(pair.fp8->adapter()->whole()->magnitude.grad().defined());
}

TEST(Fp8Weight, MergingWidensIt) {
  for (const bool dora : {false, true}) {
    const Pair pair = make_pair(kForms[1], at::kFloat, dora);
    const at::Tensor x = at::randn({3, kIn});
    const at::NoGradGuard no_grad;
    const at::Tensor before = pair.fp8->forward(x);
    pair.fp8->merge_adapter();
    pair.dense->merge_adapter();
    EXPECT_EQ(pair.fp8->fp8(), nullptr);
    EXPECT_TRUE(at::equal(pair.fp8->weight, pair.dense->weight));
    EXPECT_TRUE(pair.fp8->named_parameters()["weight"].is_same(pair.fp8->weight));
    EXPECT_FALSE(pair.fp8->weight.requires_grad());
    EXPECT_LE(relative_error(pair.fp8->forward(x), before), 1e-5);
  }
}

}  // namespace
}  // namespace trestle
