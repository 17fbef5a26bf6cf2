// Products of a few rows with a weight that is held in codes, which are read as they are: what
// decoding on such a weight is made of. Called by the model's held weights.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// Whether x [B, K] is few enough rows, on the CPU or where kernels are, and nobody asks for its
/// gradient: then one of these is called.
bool takes_row_product(const at::Tensor& x_BK);

/// x W^T: [B, K] -> [B, rows], summed in fp32 and rounded once. W's values are what
/// linear/quantized.h makes of its codes, uint8 (NF4) [rows, ceil(K / 2)] or int8 [rows, K], and
/// absmax [rows, ceil(K / 64)], before they are rounded to x's dtype.
at::Tensor row_product(const at::Tensor& x_BK, const at::Tensor& codes, const at::Tensor& absmax);

/// Of linear/fp8_weight.h's matrix: codes float8_e4m3fn [rows, K], scales fp32 [grid rows, grid
/// columns] of `block_columns` columns each, grid_row int32 [rows].
at::Tensor row_product_fp8(const at::Tensor& x_BK, const at::Tensor& codes,
                           const at::Tensor& scales, const at::Tensor& grid_row,
                           int64_t block_columns);

}  // namespace trestle
