// Products with weight panels, on every path that this processor has, against fp64 products of the
// values that the panels say, and those values against the matrix they were made from.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/times_panels.h"

namespace trestle {
namespace {

constexpr std::array kForms = {PanelForm::kBf16, PanelForm::kInt8, PanelForm::kInt4};

struct Packed {
  PanelShape shape;
  at::Tensor panels;
};

Packed packed(const at::Tensor& weight, PanelForm form) {
  Packed made{{form, weight.size(0), weight.size(1)}, {}};
  made.panels = at::empty({made.shape.bytes()}, at::kByte);
  pack_rows(weight.to(at::kBFloat16).contiguous(), 0, made.panels, made.shape);
  return made;
}

at::Tensor values_of(const Packed& from) {
  at::Tensor values = at::empty({from.shape.rows, from.shape.columns}, at::kBFloat16);
  unpack_rows(from.panels, from.shape, 0, 0, values);
  return values;
}

double distance(const at::Tensor& given, const at::Tensor& wanted) {
  return ((given.to(at::kDouble) - wanted.to(at::kDouble)).norm() / wanted.to(at::kDouble).norm())
      .item<double>();
}

std::vector<PanelPath> paths_here() {
  std::vector<PanelPath> here;
  for (const PanelPath path : {PanelPath::kAvx512, PanelPath::kAvx2, PanelPath::kPlain}) {
    if (panel_sums(path) != nullptr) here.push_back(path);
  }
  return here;
}

TEST(WeightPanels, KeepBf16ToTheBitAndCodesWithinHalfAStep) {
  at::manual_seed(1);
  for (const auto& [rows, columns] : {std::pair{32, 64}, {5, 7}, {37, 100}}) {
    const at::Tensor weight = at::randn({rows, columns}).to(at::kBFloat16);
    EXPECT_TRUE(at::equal(values_of(packed(weight, PanelForm::kBf16)), weight));
    for (const auto& [form, steps, rounding] :
         {std::tuple{PanelForm::kInt8, 127.0, 1.0}, {PanelForm::kInt4, 8.0, 1.15}}) {
      const at::Tensor error = (values_of(packed(weight, form)) - weight).to(at::kDouble).abs();
      for (int64_t first = 0; first < columns; first += kPanelGroup) {
        const int64_t count = std::min<int64_t>(kPanelGroup, columns - first);
        const at::Tensor largest =
            weight.narrow(1, first, count).to(at::kDouble).abs().amax(1, true);
        // Half a step, or at the far end of int4 (whose codes reach from -8 to 7) a whole one; and
        // bf16's own rounding.
        const double most = form == PanelForm::kInt4 ? 1.0 : 0.5;
        const at::Tensor bound = largest * (most / steps * rounding + 1.0 / 256);
        EXPECT_TRUE((error.narrow(1, first, count) <= bound).all().item<bool>());
      }
    }
  }
}

TEST(WeightPanels, ReadPartsOfRowsAndColumns) {
  at::manual_seed(2);
  for (const PanelForm form : kForms) {
    const Packed from = packed(at::randn({50, 96}), form);
    const at::Tensor all = values_of(from);
    at::Tensor part = at::empty({20, 40}, at::kBFloat16);
    unpack_rows(from.panels, from.shape, 7, 32, part);
    EXPECT_TRUE(at::equal(part, all.narrow(0, 7, 20).narrow(1, 32, 40)));
  }
}

TEST(WeightPanels, AreWrittenInParts) {
  at::manual_seed(3);
  const at::Tensor weight = at::randn({41, 64}).to(at::kBFloat16);
  for (const PanelForm form : kForms) {
    const Packed whole = packed(weight, form);
    at::Tensor panels = at::zeros_like(whole.panels);
    pack_rows(weight.narrow(0, 32, 9).contiguous(), 32, panels, whole.shape);
    pack_rows(weight.narrow(0, 0, 32).contiguous(), 0, panels, whole.shape);
    EXPECT_TRUE(at::equal(panels, whole.panels));
  }
}

TEST(TimesPanels, AreTheProductsOfTheirValues) {
  at::manual_seed(4);
  for (const PanelPath path : paths_here()) {
    const PanelSums& sums = *panel_sums(path);
    // The last are enough for several threads.
    for (const auto& [rows, columns] : {std::pair{48, 128}, {5, 7}, {100, 100}, {600, 512}}) {
      const at::Tensor weight = at::randn({rows, columns});
      for (const int64_t T : {1, 2, 3, 4, 5, 6, 7, 8, 9, 19}) {
        const at::Tensor x = at::randn({T, columns}).to(at::kBFloat16);
        for (const PanelForm form : kForms) {
          const Packed from = packed(weight, form);
          const at::Tensor wanted = x.to(at::kDouble).matmul(values_of(from).to(at::kDouble).t());
          const at::Tensor given = times_panels(x.to(at::kFloat), from.panels, from.shape, sums);
          EXPECT_EQ(given.scalar_type(), at::kFloat);
          // Codes of x are off by up to 1 / 254 of a group's largest, those of weights are rounded
          // once more to be values in bf16.
          const double bound = form == PanelForm::kBf16 ? 1e-5 : 0.012;
          EXPECT_LE(distance(given, wanted), bound) << sums.name << " " << T << " rows";
          const at::Tensor in_bf16 = times_panels(x, from.panels, from.shape, sums);
          EXPECT_TRUE(at::equal(in_bf16, given.to(at::kBFloat16)));
        }
      }
    }
  }
}

// Sums of codes are exact: every path gives the same but for fused additions of groups.
TEST(TimesPanels, OfCodesAreThoseOfEveryPath) {
  at::manual_seed(5);
  const at::Tensor x = at::randn({8, 320}).to(at::kBFloat16);
  for (const PanelForm form : {PanelForm::kInt8, PanelForm::kInt4}) {
    const Packed from = packed(at::randn({64, 320}), form);
    const at::Tensor wanted =
        times_panels(x.to(at::kFloat), from.panels, from.shape, *panel_sums(PanelPath::kPlain));
    for (const PanelPath path : paths_here()) {
      const at::Tensor given =
          times_panels(x.to(at::kFloat), from.panels, from.shape, *panel_sums(path));
      EXPECT_LE(distance(given, wanted), 1e-6) << panel_sums(path)->name;
    }
  }
}

// A token is decoded alone or beside proposals, and a prompt in chunks: to the bit the same.
TEST(TimesPanels, GiveEachRowWhatItHasAlone) {
  at::manual_seed(6);
  for (const auto& [rows, columns] : {std::pair{80, 256}, {37, 100}}) {
    const at::Tensor x = at::randn({21, columns}).to(at::kBFloat16);
    for (const PanelForm form : kForms) {
      const Packed from = packed(at::randn({rows, columns}), form);
      for (const PanelPath path : paths_here()) {
        const auto product = [&](const at::Tensor& some) {
          return times_panels(some.to(at::kFloat), from.panels, from.shape, *panel_sums(path));
        };
        std::vector<at::Tensor> alone;
        for (int64_t t = 0; t < x.size(0); ++t) alone.push_back(product(x.narrow(0, t, 1)));
        const at::Tensor wanted = at::cat(alone);
        for (const int64_t T : {2, 3, 4, 5, 6, 7, 8, 9, 21}) {
          EXPECT_TRUE(at::equal(product(x.narrow(0, 0, T)), wanted.narrow(0, 0, T)))
              << panel_sums(path)->name << ", " << T << " rows";
        }
      }
    }
  }
}

// Of int4 the largest codes that a byte has are 15 times 127, in all places but one of a group.
TEST(TimesPanels, TakeTheLargestHalfBytes) {
  at::Tensor weight = at::full({16, 64}, 7.0 / 8), x = at::full({1, 64}, 1.0);
  for (const int64_t first : {0, 32}) weight.narrow(1, first, 1).fill_(-1);
  const Packed from = packed(weight, PanelForm::kInt4);
  const at::Tensor wanted = values_of(from).to(at::kDouble).sum(1);
  EXPECT_NEAR(wanted[0].item<double>(), 2 * (31 * 7.0 / 8 - 1), 0.3);
  for (const PanelPath path : paths_here()) {
    for (const double sign : {1.0, -1.0}) {
      const at::Tensor y = times_panels(x * sign, from.panels, from.shape, *panel_sums(path));
      EXPECT_LE(distance(y[0] * sign, wanted), 3e-3) << panel_sums(path)->name;
    }
  }
}

// Weights that no scale in fp16 reaches, and inputs that have no inverse.
TEST(TimesPanels, KeepToTheirRange) {
  at::Tensor weight = at::ones({16, 64});
  weight[5][7] = 1e8;
  for (const PanelForm form : {PanelForm::kInt8, PanelForm::kInt4}) {
    const PanelShape shape{form, 16, 64};
    const at::Tensor panels = at::empty({shape.bytes()}, at::kByte);
    EXPECT_FALSE(pack_rows(weight.to(at::kBFloat16), 0, panels, shape));
    EXPECT_TRUE(pack_rows(at::ones({16, 64}, at::kBFloat16), 0, panels, shape));
    const at::Tensor y = times_panels(at::full({1, 64}, 1e-38), panels, shape);
    EXPECT_EQ(y.abs().max().item<double>(), 0);
  }
}

// The largest codes that there are, in every place: no sum overflows.
TEST(TimesPanels, TakeTheLargestCodes) {
  for (const double sign : {1.0, -1.0}) {
    const at::Tensor weight = at::full({16, 64}, sign), x = at::full({1, 64}, -sign);
    {
      const Packed from = packed(weight, PanelForm::kInt8);
      const double value = values_of(from)[0][0].item<double>();
      for (const PanelPath path : paths_here()) {
        const at::Tensor y = times_panels(x, from.panels, from.shape, *panel_sums(path));
        EXPECT_NEAR(y[0][0].item<double>(), -sign * 64 * value, 0.3);
      }
    }
  }
}

TEST(TimesPanels, PassOnWhatIsNoFiniteNumber) {
  for (const double bad : std::array<double, 2>{std::nan(""), INFINITY}) {
    at::Tensor x = at::ones({2, 64});
    x[0][40] = bad;
    for (const PanelForm form : kForms) {
      const Packed from = packed(at::ones({16, 64}), form);
      for (const PanelPath path : paths_here()) {
        const at::Tensor y = times_panels(x, from.panels, from.shape, *panel_sums(path));
        EXPECT_FALSE(std::isfinite(y[0][3].item<double>()));
        EXPECT_TRUE(std::isfinite(y[1][3].item<double>()));
      }
    }
  }
}

}  // namespace
}  // namespace trestle
