// Products of a few rows with a weight in codes on the CPU: the codes are widened a block at a time
// in registers and the first cache, and no values are written to memory. Called by row_product.
#pragma once

#include <cstdint>

namespace trestle {

/// Where codes of [rows, columns] lie, rows beside each other.
struct CodedRows {
  enum class Form { kNf4, kInt8, kFp8 } form = Form::kInt8;
  int64_t rows = 0, columns = 0;
  const uint8_t* codes = nullptr;
  /// NF4 and int8: absmax of each block of 64 columns. FP8: scales [grid rows, grid_columns] of
  /// block_columns columns each, whose values are rounded to bf16 (linear/fp8_weight.h).
  const float* scales = nullptr;
  const int32_t* grid_row = nullptr;
  int64_t grid_columns = 0, block_columns = 0;
};

constexpr int64_t kMostCodeProductRows = 8;
/// Columns of x are padded with zeros to a multiple of this many.
constexpr int64_t kCodeBlock = 64;

/// y[b, row] for rows [first, last): x [batch, padded columns], y [batch, rows].
void code_product(const CodedRows& weight, const float* x, int64_t batch, int64_t first,
                  int64_t last, float* y);

}  // namespace trestle
