// What is measured while a run trains. Made by the trainer, told by the metrics log.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "generate/evaluate.h"

namespace trestle {

/// What one step did; a line of metrics.jsonl.
struct StepMetrics {
  int64_t step = 0;
  /// How many made it.
  int64_t ranks = 1;
  /// Mean over the targets of the global batch.
  double loss = 0;
  double lr = 0;
  /// Before clipping.
  double grad_norm = 0;
  int64_t target_tokens = 0;
  int64_t tokens = 0;
  int64_t images = 0;
  /// Micro-batches.
  int64_t forwards = 0;
  double seconds = 0;
  /// Of the rank that has held the most.
  int64_t peak_memory_bytes = 0;
  /// Operations of matrix products and attention (train/flops.h).
  double flops = 0;
  /// 2-norm of all weights behind the step; with logger.log_params_norm.
  std::optional<double> params_norm = {};
  /// Why nothing was changed (train.on_nan=skip); empty in a step that was made.
  std::string skipped = {};
};

/// What a validation behind step `step` found; a line of metrics.jsonl.
struct ValidationMetrics {
  int64_t step = 0;
  /// Of validation.sets the one; empty without.
  std::string set = {};
  /// Mean over the targets of the rows it took.
  double loss = 0;
  /// By name: exact_match, field_f1, ...; higher is better. Empty where only the loss was asked
  /// for.
  std::map<std::string, double> scores = {};
  /// The answers that the scores are of.
  std::vector<ScoredAnswer> answers = {};
  double seconds = 0;
};

}  // namespace trestle
