// A training run on disk as Megatron checkpoints: weights or adapters, optimizer, and what is
// needed to go on as if nothing had happened. Called by the trainer.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bridge/load.h"
#include "megatron/checkpoint.h"
#include "recipes/config.h"
#include "train/identity.h"
#include "train/optimizer.h"

namespace trestle {

class Ministral3;

/// The step whose validation was best so far.
struct BestStep {
  int64_t step = 0;
  /// validation.best_metric, and what it was.
  std::string metric;
  double value = 0;
  /// Validation::measured_on; empty in a checkpoint of before 2026-11-28.
  std::string measured_on = {};
};

/// Where a run stands after a step.
struct Progress {
  /// Steps made.
  int64_t step = 0;
  /// Samples taken: SampleStream::position.
  int64_t consumed_samples = 0;
  /// Of the steps, those that changed nothing (train.on_nan=skip), and how many of them on end.
  int64_t skipped = 0, skipped_on_end = 0;
  /// Losses of the last steps that did, oldest first: what a spike is measured by.
  std::vector<double> recent_losses = {};
  std::optional<BestStep> best = {};
};

/// Writes `run`/iter_%07d with the trained tensors (adapters only in a LoRA or DoRA run), AdamW's
/// state, the schedule, the position in the data, torch's random state and what run it is of. An
/// iteration that is there already is replaced whole.
void save_checkpoint(const std::filesystem::path& run, const Ministral3& model,
                     const AdamW& optimizer, const Progress& progress, const TrainConfig& config,
                     const RunIdentity& identity, const OpenCheckpoint& base);

/// A checkpoint of save_checkpoint to go on from.
class SavedRun {
 public:
  /// `path` is a run, whose newest checkpoint is taken, or one of its iterations. Throws UserError
  /// when there is none.
  explicit SavedRun(const std::filesystem::path& path);

  /// What it says of its run; nothing where it does not.
  std::optional<RunIdentity> identity() const;
  /// Throws as require_same_run() does. A line on stderr tells of each permission in which nothing
  /// differs, and of a checkpoint that does not say which run it is of, so that nothing but its
  /// tensors is checked.
  void require_same(const RunIdentity& now, const std::set<std::string>& may_change) const;

  /// Into a model and optimizer built from the same config. Throws UserError when the checkpoint's
  /// tensors are not those that this config trains, each of them used once, or when its bytes are
  /// not those that were written.
  Progress load(Ministral3& model, AdamW& optimizer) const;

 private:
  std::string name_;  // checkpoint.load
  MegatronCheckpoint checkpoint_;
  Json own_;  // what save_checkpoint adds to Megatron's
};

}  // namespace trestle
