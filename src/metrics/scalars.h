// What trackers (TensorBoard, W&B, MLflow) are told of a step and of a validation, by name. Called
// by the metrics log and the MLflow run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "metrics/tensorboard.h"
#include "metrics/values.h"
#include "recipes/config.h"

namespace trestle {

/// The names are those of Megatron-LM's training_log and evaluate_and_print_results where it has
/// one; those of the throughput and of memory are Megatron Bridge's.
Scalars scalars_of(const StepMetrics& metrics, const LoggerOptions& options,
                   int64_t global_batch_size);
Scalars scalars_of(const ValidationMetrics& metrics);

/// Megatron's of one of several validation sets: "-NAME"; "" without a name.
std::string set_suffix(const std::string& set);

/// Whether some run tells a value of that name, whatever its keys.
bool is_scalar_of_runs(std::string_view name);

}  // namespace trestle
