// Where the codes of a frozen weight lie on a card: model/quantized.h's and model/fp8_weight.h's
// matrices, or tiles of them. What dequantize_cuda.h and row_product_cuda.h take.
#pragma once

#include <cstdint>

namespace trestle::cuda {

/// Columns of a row that share a scale.
constexpr int64_t kQuantizedBlock = 64;

/// NF4, two codes a byte, or 8 bits. Pointers are to the first row and the first column, a multiple
/// of kQuantizedBlock; rows are `code_stride` bytes and `absmax_stride` numbers apart.
struct QuantizedCodes {
  const void* codes = nullptr;
  const float* absmax = nullptr;
  int64_t code_stride = 0, absmax_stride = 0;
};

/// FP8 (e4m3). codes point to the first row and column, grid_row to the first row; the value in
/// column j has the scale scales[grid_row[row] * grid_columns + (first_column + j) /
/// block_columns].
struct Fp8Codes {
  const void* codes = nullptr;
  const float* scales = nullptr;
  const int32_t* grid_row = nullptr;
  int64_t code_stride = 0, grid_columns = 1, block_columns = 1, first_column = 0;
};

}  // namespace trestle::cuda
