#include "kernels/times_panels.h"

#include <ATen/ATen.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "cpu/thread_team.h"

namespace trestle {

namespace {

// What a thread claims at a time: so much of the weight that claiming costs nothing, so little that
// no thread waits long for another's last.
constexpr int64_t kClaimBytes = 128 << 10;
// Products of which the caller makes all: another thread would be at it for less time than it takes
// to ask.
constexpr int64_t kAlone = 1 << 18;
// Rows of x whose codes a thread makes at a time.
constexpr int64_t kClaimRows = 8;

ThreadTeam& team() { return ThreadTeam::of_process(); }

// x as the processor's loops take it.
class Prepared {
 public:
  Prepared(const at::Tensor& x, const PanelShape& shape, bool takes_bf16) : shape_(shape) {
    if (shape.form != PanelForm::kBf16) {
      const at::Tensor from = x.contiguous();
      if (from.scalar_type() == at::kFloat) {
        make_codes(from.size(0), from.const_data_ptr<float>());
      } else {
        make_codes(from.size(0), from.const_data_ptr<at::BFloat16>());
      }
      return;
    }
    const int64_t padding = shape.padded_columns() - shape.columns;
    // Of fp32 too the product is that of bf16's values.
    values_ = x.to(at::kBFloat16).to(takes_bf16 ? at::kBFloat16 : at::kFloat);
    values_ = padding == 0 ? values_.contiguous() : at::constant_pad_nd(values_, {0, padding});
  }

  PanelInput rows(int64_t first, int64_t count) const {
    PanelInput input{.batch = count, .groups = shape_.groups()};
    const int64_t columns = shape_.padded_columns();
    if (shape_.form != PanelForm::kBf16) {
      input.codes = codes_.data() + first * columns;
      input.scales = scales_.data() + first * input.groups;
      input.sums = sums_.data() + first * input.groups;
    } else if (values_.scalar_type() == at::kBFloat16) {
      input.bf16 = static_cast<const uint16_t*>(values_.const_data_ptr()) + first * columns;
    } else {
      input.fp32 = values_.const_data_ptr<float>() + first * columns;
    }
    return input;
  }

 private:
  template <class Value>
  void make_codes(int64_t T, const Value* from) {
    const int64_t groups = shape_.groups();
    codes_.resize(static_cast<size_t>(T * shape_.padded_columns()));
    scales_.resize(static_cast<size_t>(T * groups));
    sums_.resize(static_cast<size_t>(T * groups));
    team().run((T + kClaimRows - 1) / kClaimRows, [&](int64_t claim) {
      for (int64_t t = claim * kClaimRows; t < std::min(T, (claim + 1) * kClaimRows); ++t) {
        for (int64_t g = 0; g < groups; ++g) {
          const int64_t first = g * kPanelGroup;
          const int64_t count = std::min(kPanelGroup, shape_.columns - first);
          const auto at = static_cast<size_t>(t * groups + g);
          std::array<float, kPanelGroup> values{};
          std::copy_n(from + t * shape_.columns + first, count, values.begin());
          scales_[at] =
              quantize_group(values.data(), count, codes_.data() + at * kPanelGroup, &sums_[at]);
        }
      }
    });
  }

  PanelShape shape_;
  at::Tensor values_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

template <class Value>
void store(const float* sums, int64_t count, Value* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Value>(sums[i]);
}

// From this many rows of x on it is not the weight that a product waits for.
constexpr int64_t kManyRows = 9;

template <class Value>
class Product {
 public:
  Product(const Prepared& x, int64_t T, const std::byte* panels, const PanelShape& shape,
          const PanelSums& kernels, Value* y)
      : x_(x), T_(T), panels_(panels), shape_(shape), kernels_(kernels), y_(y) {}

  void make() const {
    const bool many = T_ >= kManyRows && shape_.form == PanelForm::kBf16;
    const bool pairs = many && kernels_.bf16_pair != nullptr;
    const bool widens = many && kernels_.widen != nullptr;
    const int64_t at_a_time = std::max<int64_t>(pairs ? 2 : 1, kClaimBytes / shape_.panel_bytes());
    const int64_t claims = (shape_.panels() + at_a_time - 1) / at_a_time;
    const auto make_claim = [&](int64_t claim) {
      std::vector<float> wide(widens ? shape_.padded_columns() * kPanelRows : 0);
      const int64_t last = std::min(shape_.panels(), (claim + 1) * at_a_time);
      for (int64_t panel = claim * at_a_time; panel < last;) {
        const int64_t count = pairs && panel + 1 < last ? 2 : 1;
        if (widens) {
          make_widened(panel, wide.data());
        } else {
          make_panels(panel, count);
        }
        panel += count;
      }
    };
    team().run(claims, make_claim, T_ * shape_.rows * shape_.columns < kAlone);
  }

 private:
  // Panels stay in the cache for all rows of x.
  template <class Sums>
  void for_rows(int64_t panel, int64_t count, int64_t most, const Sums& sums_of) const {
    std::array<float, kMostPanelRows * 2 * kPanelRows> sums{};
    const int64_t row = panel * kPanelRows;
    const int64_t rows = std::min(count * kPanelRows, shape_.rows - row);
    for (int64_t t = 0; t < T_; t += most) {
      const int64_t batch = std::min(most, T_ - t);
      sums_of(x_.rows(t, batch), sums.data());
      for (int64_t b = 0; b < batch; ++b) {
        store(sums.data() + b * count * kPanelRows, rows, y_ + (t + b) * shape_.rows + row);
      }
    }
  }

  void make_panels(int64_t panel, int64_t count) const {
    const auto sums_of = count == 2 ? kernels_.bf16_pair : kernels_.of(shape_.form);
    for_rows(panel, count, count == 2 ? kMostPairRows : kMostPanelRows,
             [&](const PanelInput& x, float* sums) { sums_of(at(panel), x, sums); });
  }

  void make_widened(int64_t panel, float* wide) const {
    kernels_.widen(at(panel), shape_.groups(), wide);
    for_rows(panel, 1, kMostWideRows,
             [&](const PanelInput& x, float* sums) { kernels_.wide_product(wide, x, sums); });
  }

  const std::byte* at(int64_t panel) const { return panels_ + panel * shape_.panel_bytes(); }

  const Prepared& x_;
  int64_t T_;
  const std::byte* panels_;
  PanelShape shape_;
  const PanelSums& kernels_;
  Value* y_;
};

const std::byte* bytes_of(const at::Tensor& panels, const PanelShape& shape) {
  TORCH_CHECK(panels.is_cpu() && panels.is_contiguous() && panels.scalar_type() == at::kByte &&
                  panels.numel() == shape.bytes(),
              "panels of another shape");
  return static_cast<const std::byte*>(panels.const_data_ptr());
}

}  // namespace

at::Tensor times_panels(const at::Tensor& x, const at::Tensor& panels, const PanelShape& shape,
                        const PanelSums& sums) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == shape.columns && x.is_cpu(), "x is [T, columns]");
  const std::byte* from = bytes_of(panels, shape);
  const Prepared prepared(x, shape, sums.takes_bf16);
  at::Tensor y = at::empty({x.size(0), shape.rows}, x.options());
  if (y.scalar_type() == at::kBFloat16) {
    auto* to = y.mutable_data_ptr<at::BFloat16>();
    Product<at::BFloat16>(prepared, x.size(0), from, shape, sums, to).make();
  } else {
    TORCH_CHECK(y.scalar_type() == at::kFloat, "x is in bf16 or fp32");
    auto* to = y.mutable_data_ptr<float>();
    Product<float>(prepared, x.size(0), from, shape, sums, to).make();
  }
  return y;
}

bool pack_rows(const at::Tensor& values, int64_t first, const at::Tensor& panels,
               const PanelShape& shape) {
  const int64_t n = values.size(0);
  TORCH_CHECK(values.scalar_type() == at::kBFloat16 && values.is_contiguous() &&
                  values.size(1) == shape.columns && first % kPanelRows == 0 &&
                  (n % kPanelRows == 0 || first + n == shape.rows) && first + n <= shape.rows,
              "panels are written whole");
  const auto* from = static_cast<const uint16_t*>(values.const_data_ptr());
  auto* to = const_cast<std::byte*>(bytes_of(panels, shape));  // NOLINT: the caller's own
  std::atomic<bool> all_said = true;
  team().run((n + kPanelRows - 1) / kPanelRows, [&](int64_t panel) {
    const int64_t row = panel * kPanelRows;
    const bool said = pack_panel(shape, from + row * shape.columns, std::min(kPanelRows, n - row),
                                 to + (first / kPanelRows + panel) * shape.panel_bytes());
    if (!said) all_said = false;
  });
  return all_said;
}

void unpack_rows(const at::Tensor& panels, const PanelShape& shape, int64_t first, int64_t column,
                 const at::Tensor& into) {
  const int64_t n = into.size(0), columns = into.size(1);
  const std::byte* from = bytes_of(panels, shape);
  auto* to = static_cast<uint16_t*>(into.mutable_data_ptr());
  const int64_t first_panel = first / kPanelRows;
  const int64_t last_panel = (first + n + kPanelRows - 1) / kPanelRows;
  team().run(n == 0 ? 0 : last_panel - first_panel, [&](int64_t i) {
    const int64_t panel = first_panel + i, row = panel * kPanelRows;
    const int64_t begin = std::max(first, row), end = std::min(first + n, row + kPanelRows);
    const std::byte* at = from + panel * shape.panel_bytes();
    if (begin == row) {
      unpack_panel(shape, at, end - row, column, column + columns, to + (row - first) * columns,
                   columns);
      return;
    }
    std::vector<uint16_t> whole(static_cast<size_t>((end - row) * columns));
    unpack_panel(shape, at, end - row, column, column + columns, whole.data(), columns);
    std::copy(whole.begin() + (begin - row) * columns, whole.end(), to + (begin - first) * columns);
  });
}

}  // namespace trestle
