// Keys of a run that can have no effect. One that was asked for is refused where it never can, and
// told of in a line where only this run is too short for it. Called by `trestle finetune` and the
// trainer.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "recipes/settle.h"

namespace trestle {

/// Why rng.seed has no effect where TrainConfig::draws() says so.
constexpr const char* kNothingDrawn =
    "dataset.shuffle=false, no dropout, and no adapters that start at random: nothing is drawn";

/// Throws UserError for a key that was asked for and can have no effect in this run.
void refuse_without_effect(const SettledRun& run);

/// The same of keys whose steps lie behind train.train_iters, for which that must be settled:
/// length_is_known, or a trainer has settled it.
void refuse_behind_the_end(const TrainConfig& config, const std::set<std::string>& asked);

/// A line for each key that acts at some steps, but at none of those that are made now: behind
/// step `made`, up to train.train_iters or where train.exit_interval stops. Those of a run that
/// goes on later are none to refuse. `has_checkpoints`: checkpoint.save holds some, which count for
/// checkpoint.most_recent_k too.
std::vector<std::string> idle_keys(const TrainConfig& config, const std::set<std::string>& asked,
                                   int64_t made, bool has_checkpoints = false);

}  // namespace trestle
