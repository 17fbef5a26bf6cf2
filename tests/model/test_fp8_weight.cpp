// A projection whose weight is held in FP8 against the same projection with its values in a dense
// weight. That the values are those of the reader is tests/bridge/test_fp8_base.cpp's.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/emulated.h"
#include "model/held_weight.h"

namespace trestle {
namespace {

using namespace testing;

constexpr int64_t kIn = 200, kOut = 300;  // no multiple of a block, a tile, a table

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
    // What a device takes that has no loop of ours: to the bit.
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      EXPECT_TRUE(at::equal(weight.dense_by_operators({113, 60}, {64, 101}, dtype),
                            weight.dense({113, 60}, {64, 101}, dtype)))
          << form.name;
    }
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

HeldForm held(const Form& form, at::ScalarType dtype = at::kFloat) {
  return {kIn, kOut, Build{dtype, at::kCPU, 16, /*keep_fp8=*/true}, [&form](Linear& linear) {
            EXPECT_FALSE(linear.has_values());
            linear.hold(random_weight(form, kOut, kIn));
            EXPECT_TRUE(linear.has_values() && linear.weight.is_meta());
          }};
}

TEST(Fp8Weight, ForwardAndGradientsAreTheDenseOnes) {
  for (const Form& form : kForms) {
    expect_dense_results([&](at::ScalarType dtype) { return held(form, dtype); }, form.name);
  }
}

TEST(Fp8Weight, ManyTilesAreOneMatrix) {
  constexpr int64_t kRows = 3001, kColumns = 1610;  // 19.3 MB in fp32: over a tile either way
  for (const Form& form : kForms) {
    const Fp8Weight weight = random_weight(form, kRows, kColumns);
    const at::Tensor dense = values_of(weight).to(at::kDouble);
    const at::Tensor x = at::randn({5, kColumns}).requires_grad_();
    const at::Tensor y = fp8_linear(x, weight);
    EXPECT_LE(error_of_values(y, at::linear(x.to(at::kDouble), dense)), 1e-5) << form.name;
    const at::Tensor up = at::randn({5, kRows});
    const auto down = torch::autograd::grad({y}, {x}, {up});
    EXPECT_LE(error_of_values(down[0], at::mm(up.to(at::kDouble), dense)), 1e-5) << form.name;
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

TEST(Fp8Weight, InferenceBeforeTraining) { expect_training_behind_inference(held(kForms[2])); }

TEST(Fp8Weight, MergingWidensIt) {
  for (const bool dora : {false, true}) {
    const HeldAndDense pair = make_pair(held(kForms[1]), dora);
    const at::Tensor x = at::randn({3, kIn});
    const at::NoGradGuard no_grad;
    const at::Tensor before = pair.held->forward(x);
    pair.held->merge_adapter();
    pair.dense->merge_adapter();
    EXPECT_EQ(pair.held->fp8(), nullptr);
    EXPECT_TRUE(at::equal(pair.held->weight, pair.dense->weight));
    EXPECT_TRUE(pair.held->named_parameters()["weight"].is_same(pair.held->weight));
    EXPECT_FALSE(pair.held->weight.requires_grad());
    EXPECT_LE(error_of_values(pair.held->forward(x), before), 1e-5);
  }
}

// By the emulator.
TEST(Fp8Weight, ACardsKernelsMakeTheSameBits) {
  for (const Form& form : kForms) {
    const Fp8Weight weight = random_weight(form, kOut, kIn);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor whole = weight.dense(dtype),
                       part = weight.dense({113, 60}, {64, 101}, dtype);
      const EmulatedKernels kernels;
      EXPECT_TRUE(at::equal(weight.dense(dtype), whole)) << form.name << dtype;
      EXPECT_TRUE(at::equal(weight.dense({113, 60}, {64, 101}, dtype), part)) << form.name << dtype;
      EXPECT_EQ(EmulatedKernels::calls(), (std::map<std::string, int64_t>{{"dequantize_fp8", 2}}));
    }
  }
}

}  // namespace
}  // namespace trestle
