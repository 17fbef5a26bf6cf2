#include "checkpoint/fp8.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace trestle {

namespace {

// Rows turned to fp32 at a time, so that a whole embedding never needs four times its size.
constexpr int64_t kStripElements = 1 << 22;

struct Matrix {
  int64_t rows;
  int64_t columns;
};

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

Matrix as_matrix(const std::vector<int64_t>& shape) {
  Matrix matrix{shape.empty() ? 1 : shape[0], 1};
  for (size_t i = 1; i < shape.size(); ++i) matrix.columns *= shape[i];
  return matrix;
}

}  // namespace

Fp8Block fp8_block(const std::vector<int64_t>& weight_shape,
                   const std::vector<int64_t>& scale_shape, std::optional<Fp8Block> stated,
                   std::string_view what) {
  const auto [rows, columns] = as_matrix(weight_shape);
  const auto [grid_rows, grid_columns] = as_matrix(scale_shape);
  const Fp8Block whole{std::max<int64_t>(rows, 1), std::max<int64_t>(columns, 1)};
  const auto fits = [&](const Fp8Block& block) {
    return ceil_divide(rows, block.rows) == grid_rows &&
           ceil_divide(columns, block.columns) == grid_columns;
  };
  if (scale_shape.size() <= 2 && grid_rows > 0 && grid_columns > 0) {
    if (grid_rows == 1 && grid_columns == 1) return whole;
    if (stated && fits(*stated)) return *stated;
    if (grid_rows == rows && grid_columns == 1) return {1, whole.columns};
    if (!stated && fits(Fp8Block{})) return {};
    if (!stated && rows % grid_rows == 0 && columns % grid_columns == 0) {
      return {rows / grid_rows, columns / grid_columns};
    }
  }
  user_error(
      "{}: weight_scale_inv has shape [{}], which fits no scalar, row or {}block scale of [{}]",
      what, fmt::join(scale_shape, ", "),
      stated ? fmt::format("{} x {} ", stated->rows, stated->columns) : "",
      fmt::join(weight_shape, ", "));
}

void check_fp8_scale(const at::Tensor& scale, std::string_view what) {
  if (!at::isFloatingType(scale.scalar_type())) {
    user_error("{}: weight_scale_inv is {}, not a floating type", what, describe(info_of(scale)));
  }
  if (!at::isfinite(scale.to(at::kFloat)).all().item<bool>()) {
    user_error("{}: weight_scale_inv holds a value that is not finite; the file is damaged", what);
  }
}

at::Tensor dequantize_fp8(const at::Tensor& weight, const at::Tensor& scale,
                          std::optional<Fp8Block> stated, std::string_view what) {
  return dequantize_fp8_rows(weight, 0, weight.sizes().vec(), scale, stated, what);
}

at::Tensor dequantize_fp8_rows(const at::Tensor& weight, int64_t first_row,
                               const std::vector<int64_t>& whole_shape, const at::Tensor& scale,
                               std::optional<Fp8Block> stated, std::string_view what) {
  if (weight.scalar_type() != at::kFloat8_e4m3fn) {
    user_error("{}: {} is not an F8_E4M3 weight", what, describe(info_of(weight)));
  }
  check_fp8_scale(scale, what);
  const Fp8Block block = fp8_block(whole_shape, scale.sizes().vec(), stated, what);
  const auto [rows, columns] = as_matrix(weight.sizes().vec());
  const auto [grid_rows, grid_columns] = as_matrix(scale.sizes().vec());
  const at::Tensor scale_RC = scale.to(at::kFloat).reshape({grid_rows, grid_columns});

  const at::Tensor weight_OI = weight.reshape({rows, columns});
  at::Tensor result_OI = at::empty({rows, columns}, weight.options().dtype(at::kBFloat16));
  const int64_t strip = std::max<int64_t>(1, kStripElements / std::max<int64_t>(1, columns));
  for (int64_t row = 0; row < rows; row += strip) {
    const int64_t count = std::min(strip, rows - row);
    const at::Tensor block_of_row =
        at::arange(first_row + row, first_row + row + count, at::kLong).div_(block.rows, "floor");
    at::Tensor scale_OC = scale_RC.index_select(0, block_of_row);
    if (grid_columns > 1) {
      scale_OC = scale_OC.repeat_interleave(block.columns, 1).narrow(1, 0, columns);
    }
    result_OI.narrow(0, row, count)
        .copy_(weight_OI.narrow(0, row, count).to(at::kFloat).mul_(scale_OC));
  }
  return result_OI.reshape(weight.sizes());
}

}  // namespace trestle
