// A training run on disk as Megatron checkpoints: weights or adapters, optimizer, and what is
// needed to go on as if nothing had happened. Called by the trainer.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/blend.h"
#include "kernels/optimizer.h"
#include "megatron/checkpoint.h"
#include "megatron/shard.h"
#include "parallel/group.h"
#include "run/identity.h"

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
struct RunProgress {
  /// Steps made.
  int64_t step = 0;
  /// Samples taken: SampleStream::position.
  int64_t consumed_samples = 0;
  /// Where the weights of dataset.blend were changed last (training_data.h).
  BlendStart blend_start = {};
  /// Of the steps, those that changed nothing (train.on_nan=skip), and how many of them on end.
  int64_t skipped = 0, skipped_on_end = 0;
  /// Losses of the last steps that did, oldest first: what a spike is measured by.
  std::vector<double> recent_losses = {};
  std::optional<BestStep> best = {};
  /// Steps that were the best as it was measured before; their checkpoints stay.
  std::vector<int64_t> former_best = {};
  /// The step behind which optimizer and schedule began anew (checkpoint.load_optim=false), the
  /// samples taken by then, and how many of the skipped steps lie before it.
  int64_t schedule_start = 0, schedule_samples = 0, skipped_before = 0;
  /// Since then every step has taken one batch of the same size: where the run began, or went on
  /// with another size.
  struct {
    int64_t step = 0, samples = 0;
  } began = {};
  /// Tells a run's checkpoints from those of every other, equal ones too: drawn when it begins, and
  /// taken on where it goes on in its directory. Empty where the checkpoint has none.
  std::string lineage = {};

  /// Of the optimizer that there is now.
  int64_t updates() const { return (step - schedule_start) - (skipped - skipped_before); }
};

/// What a checkpoint has beside Megatron's entries and the random state.
constexpr const char* kProgress = "trestle.progress";

/// A checkpoint to go on from, or to take weights from.
class SavedRun {
 public:
  /// `path` is a run, whose newest checkpoint is taken, or one of its iterations. Throws UserError
  /// when there is none or, with `verified`, where integrity.json is missing or files are not as it
  /// says, which the first rank reads for all. A line on stderr tells of a tracker that says
  /// otherwise than the one that is followed. By all of `ranks`, on the CPU's backend; each reads
  /// the parts that its `plan` says, whichever ranks wrote them.
  explicit SavedRun(const std::filesystem::path& path, bool verified = false,
                    const ShardPlan& plan = {}, Group ranks = {});

  /// What it says of its run; nothing where it does not.
  std::optional<RunIdentity> identity() const;
  /// Throws as require_same_run() does. A line on stderr tells of each permission in which nothing
  /// differs, and of a checkpoint that does not say which run it is of, so that nothing but its
  /// tensors is checked.
  void require_same(const RunIdentity& now, const std::set<std::string>& may_change) const;

  /// The same of the keys `peft.` alone, which say what an adapter's weights mean.
  void require_same_adapters(const RunIdentity& now, const std::set<std::string>& may_change) const;

  /// Into a model built from the same config. Throws UserError when the checkpoint's weights are
  /// not those that this config trains, each of them used once, or when its bytes are not those
  /// that were written. Optimizers are made behind it: they copy the weights.
  void load_weights(Ministral3& model) const;
  struct What {
    bool optimizer = true, random_state = true;
    /// Where the model is.
    at::Device device = at::kCPU;
  };
  /// The rest, likewise. Without the optimizer it and the schedule begin anew; without the random
  /// state torch's stays as it is. So does a card's where the checkpoint was saved on the CPU, and
  /// on the CPU a card's is not used; a line on stderr tells of either. Throws UserError where the
  /// optimizer is wanted and was not saved, or where the checkpoint says its step, its samples or
  /// its optimizer's options in two ways (saved_agreement).
  RunProgress load_state(AdamW& optimizer, const What& what) const;

 private:
  using Names = std::set<std::string>;
  /// Copies stored parts into `held`. Returns the names that were used.
  Names take(const std::vector<HeldTensor>& held, const Names& names) const;
  /// As the checkpoint spells them, the parameters that all ranks together train.
  std::vector<std::string> trained_by_all(const AdamW& optimizer) const;
  std::string stored_name(const std::string& ours) const;
  /// The same of the optimizer's state in flat buckets.
  void take_flat(const std::vector<HeldTensor>& held, std::vector<std::string> trained) const;
  /// Of `names` those that no rank uses; `use` returns which this one does.
  Names unused(const Names& names, const std::function<Names()>& use) const;
  void require_used(const Names& names) const;
  void require_shape(const std::string& name, const std::vector<int64_t>& stored,
                     const std::vector<int64_t>& wanted) const;
  void require_optimizer(const Names& names) const;
  void load_random_states(const Names& names, const What& what) const;
  RunProgress progress(AdamW& optimizer, const What& what) const;

  std::string name_;  // checkpoint.load
  ShardPlan plan_;
  Group ranks_;
  MegatronCheckpoint checkpoint_;
  Json own_;  // kProgress
};

}  // namespace trestle
