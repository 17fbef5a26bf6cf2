// Two sets of weights told apart without reading all of them: some rows of each tensor. Called by a
// run's identity and where a run names another copy of its base.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/tensor_source.h"

namespace trestle {

/// Ranges of rows that stand for a tensor: all of a small one or with `whole`, else a few single
/// rows spread over it, the first and the last among them. Empty where it has no values.
std::vector<RowRange> sampled_rows(const TensorInfo& info, bool whole = false);

/// The bytes that a tensor takes.
uint64_t size_of(const TensorInfo& info);

/// "TENSOR is missing there", or whatever else tells `theirs` from `ours`, both under Megatron's
/// names: the first tensor that only one of them has, of another shape (but for the rows of a
/// padded vocabulary), or with other values in its sampled rows. Of two dtypes values are compared
/// as the narrower one has them. Nothing where they are the same.
std::optional<std::string> weights_difference(const TensorSource& ours, const TensorSource& theirs);

}  // namespace trestle
