#include "formats/fp8.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <c10/util/Float8_e4m3fn.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/error.h"
#include "formats/safetensors.h"

namespace trestle {

namespace {

constexpr int64_t kGrain = 1 << 18;  // values a thread takes at least

// What each of the 256 codes becomes under one scale.
using Table = std::array<at::BFloat16, 256>;

void fill(Table& table, float scale) {
  for (size_t code = 0; code < table.size(); ++code) {
    const float value =
        c10::Float8_e4m3fn(static_cast<uint8_t>(code), c10::Float8_e4m3fn::from_bits());
    table[code] = at::BFloat16(value * scale);
  }
}

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

Fp8Scales fp8_scales_of(const std::vector<int64_t>& weight_shape, const at::Tensor& scale,
                        std::optional<Fp8Block> stated, std::string_view what) {
  check_fp8_scale(scale, what);
  const std::vector<int64_t> shape = scale.sizes().vec();
  const Fp8Block block = fp8_block(weight_shape, shape, stated, what);
  const Matrix grid = as_matrix(shape), matrix = as_matrix(weight_shape);
  at::Tensor grid_row = at::empty({matrix.rows}, at::kInt);
  auto* rows = grid_row.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < grid_row.numel(); ++i) rows[i] = static_cast<int32_t>(i / block.rows);
  // A copy: a page of the file would be counted as held, with what lies around it.
  // A config may state blocks that are wider than the matrix.
  return {scale.to(at::kFloat).reshape({grid.rows, grid.columns}).clone(), grid_row,
          std::clamp<int64_t>(block.columns, 1, std::max<int64_t>(matrix.columns, 1))};
}

at::Tensor dequantize_fp8(const at::Tensor& weight, const at::Tensor& scale,
                          std::optional<Fp8Block> stated, std::string_view what) {
  if (weight.scalar_type() != at::kFloat8_e4m3fn) {
    user_error("{}: {} is not an F8_E4M3 weight", what, describe(info_of(weight)));
  }
  const std::vector<int64_t> shape = weight.sizes().vec();
  const at::Tensor plain = weight.contiguous();
  at::Tensor result = at::empty(shape, weight.options().dtype(at::kBFloat16));
  dequantize_fp8_rows(static_cast<const std::byte*>(plain.const_data_ptr()),
                      {0, as_matrix(shape).rows}, shape, scale, stated, what,
                      result.mutable_data_ptr<at::BFloat16>());
  return result;
}

void dequantize_fp8_rows(const std::byte* codes, RowRange range, const std::vector<int64_t>& shape,
                         const at::Tensor& scale, std::optional<Fp8Block> stated,
                         std::string_view what, at::BFloat16* out) {
  check_fp8_scale(scale, what);
  const Fp8Block block = fp8_block(shape, scale.sizes().vec(), stated, what);
  const int64_t columns = as_matrix(shape).columns;
  const int64_t grid_columns = as_matrix(scale.sizes().vec()).columns;
  const at::Tensor scales = scale.to(at::kFloat).contiguous();
  const float* scale_of = scales.const_data_ptr<float>();
  const auto dequantize = [&](int64_t begin, int64_t end) {
    std::vector<Table> tables(static_cast<size_t>(grid_columns));
    int64_t filled = -1;  // rows of one block row share their tables
    for (int64_t row = begin; row < end; ++row) {
      const int64_t grid_row = (range.first + row) / block.rows;
      for (int64_t i = 0; i < grid_columns && grid_row != filled; ++i) {
        fill(tables[static_cast<size_t>(i)], scale_of[grid_row * grid_columns + i]);
      }
      filled = grid_row;
      for (int64_t i = 0; i < grid_columns; ++i) {
        const Table& table = tables[static_cast<size_t>(i)];
        const int64_t from = row * columns + i * block.columns;
        const int64_t to = row * columns + std::min(columns, (i + 1) * block.columns);
        for (int64_t k = from; k < to; ++k) out[k] = table[std::to_integer<size_t>(codes[k])];
      }
    }
  };
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns));
  at::parallel_for(0, range.count, grain, dequantize);
}

}  // namespace trestle
