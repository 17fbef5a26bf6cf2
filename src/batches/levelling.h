// Which rank takes which sample of a step, so that all have about as much to do. Called by
// global_batch.
#pragma once

#include <cstdint>
#include <vector>

#include "data/processor.h"
#include "model/config.h"

namespace trestle {

/// What a sample costs a model of this config, whole, forward: operations of its products and of
/// attention's pairs, of the tower only with `runs_tower`. For comparing samples with each other,
/// the same on every rank.
int64_t cost_of(const Sample& sample, const ModelConfig& config, bool runs_tower);

/// Who takes each sample instead of `owners`, which made them: from the rank that has most to do to
/// the one that has least, what brings them closest, until they are within a twentieth of a rank's
/// share. Settled by the arguments alone.
std::vector<int64_t> levelled(const std::vector<int64_t>& costs, std::vector<int64_t> owners,
                              int64_t ranks);

}  // namespace trestle
