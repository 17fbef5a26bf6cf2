// The order of rows of a run that goes on: with the weights that dataset.blend had, or behind a
// change that --allow-change lets be. Called by the trainer.
#pragma once

#include <string>
#include <vector>

#include "data/blend.h"
#include "recipes/config.h"
#include "run/checkpoint.h"
#include "run/identity.h"

namespace trestle {

/// Sets of dataset.blend that the saved run had, told by content and maker, stand in its order,
/// others behind them: which of two equals is next is settled by their places. And where they weigh
/// what those of the saved run did (7 and 3 for 0.7 and 0.3), they get its weights: shares whose
/// last bits differ would give another order.
void keep_order_and_weights(TrainConfig& config, Dataset& dataset, const RunIdentity& saved);

/// Gives `now` the contents under which `saved` may have its data: as checkpoints of before
/// December 2026 name them, and, as a run of one set is a blend of that one, under the other of the
/// two keys.
void name_data_as(const TrainConfig& config, const Dataset& dataset, const RunIdentity& saved,
                  RunIdentity& now);

struct ResumedOrder {
  BlendStart start;
  /// A line for each change of what decides which row comes when.
  std::vector<std::string> notes = {};
};

/// Behind `progress` of the run that was saved as `saved` and goes on as `now`. Sets that the run
/// had when it was saved, alone or in dataset.blend, go on behind the rows that each gave, new ones
/// begin at their first. Throws UserError where the checkpoint's counts are of other sets.
ResumedOrder resumed_order(const TrainConfig& config, const Dataset& dataset,
                           const RunIdentity& saved, const RunIdentity& now,
                           const RunProgress& progress);

}  // namespace trestle
