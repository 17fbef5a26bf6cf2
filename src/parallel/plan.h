// How each weight is split over tensor-parallel ranks and where a layer goes in a pipeline, by
// Megatron's names: the one table that checkpoints, layers and gradient synchronisation read.
#pragma once

#include <cstdint>
#include <string_view>

namespace trestle {

/// How tensor parallelism cuts a weight [out, in].
enum class Split {
  /// Every rank has it whole; rank 0 writes it.
  kReplicated,
  /// Consecutive rows: column-parallel projections (megatron-core ColumnParallelLinear), the
  /// vocabulary.
  kRows,
  /// Consecutive rows of either half: gate above up.
  kHalvedRows,
  /// Consecutive columns: row-parallel projections (RowParallelLinear).
  kColumns,
};

/// The submodule in which a projection keeps its adapter: MODULE.adapter.linear_in.weight.
inline constexpr std::string_view kAdapterPart = ".adapter.";

/// Whether a parameter, by its full name, is an adapter's.
bool is_adapter_tensor(std::string_view name);

/// `name` is a model parameter's, with or without `optimizer.state.*.` before it. An adapter's
/// follows its projection: where that is cut by rows, B and DoRA's magnitudes are too, and A is
/// whole; where by columns, A is too, and the rest whole, what A x sums over the columns of being
/// summed with the projection's own output.
Split split_of(std::string_view name);

/// The stages of a pipeline: layers in equal runs, embedding and vision on the first, final norm
/// and head on the last.
struct PipelinePlan {
  int64_t stages = 1;
  int64_t layers = 0;

  int64_t stage_of(std::string_view name) const;
};

}  // namespace trestle
