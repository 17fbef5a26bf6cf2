// Products with a weight in panels, on the CPU. Called by linear/panel_weight.
#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/panel_sums.h"
#include "cpu/weight_panels.h"

namespace trestle {

/// x W^T: bf16 or fp32 [T, columns] -> [T, rows] in x's dtype, rounded once from sums in fp32.
/// kBf16: of x's values in bf16. kInt8, kInt4: of x's codes, int8 with a scale for each row and
/// group of 32 columns, as llama.cpp multiplies with Q8_0 and Q4_0. `panels` uint8, shape.bytes().
/// A row's results are the same bits alone and beside any others. No gradients.
at::Tensor times_panels(const at::Tensor& x, const at::Tensor& panels, const PanelShape& shape,
                        const PanelSums& sums = panel_sums_here());

/// Writes the panels of rows [first, first + n), first a multiple of kPanelRows, from bf16
/// [n, columns]; n too is one, or these are the last. Returns whether they can say the values
/// (pack_panel).
bool pack_rows(const at::Tensor& values, int64_t first, const at::Tensor& panels,
               const PanelShape& shape);

/// Values of rows [first, first + n) and of columns from `column` (a multiple of kPanelGroup) on,
/// into bf16 [n, columns of it], of any first.
void unpack_rows(const at::Tensor& panels, const PanelShape& shape, int64_t first, int64_t column,
                 const at::Tensor& into);

}  // namespace trestle
