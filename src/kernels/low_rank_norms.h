// Row norms of a weight with a low-rank update in it, without making the update: what DoRA divides
// by. Called by linear/adapter.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/group.h"

namespace trestle {

/// The update b A, in fp32: A [rank, in], b [rows, rank] with the scale in it.
struct FactoredUpdate {
  at::Tensor a, b;
  /// Of what A was widened from, which loses nothing on the way back.
  at::ScalarType a_dtype;
};

/// ||W + b A|| row by row, [rows] in fp32; `squares` are ||W||^2, [rows] in fp64. A row of zeros
/// counts as 1. ||w + b A||^2 = ||w||^2 + (2 w A^T + b A A^T) . b. By kernels of a card one product
/// and one launch for all rows; else `rows_at_once` of W are in fp32 at a time. Where the ranks of
/// `columns` hold columns of W and A, the norms are those of the whole rows.
at::Tensor low_rank_norms(const at::Tensor& weight, const at::Tensor& squares,
                          const FactoredUpdate& update, int64_t rows_at_once,
                          const Group& columns = {});

}  // namespace trestle
