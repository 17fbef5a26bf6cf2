// What a checkpoint says more than once, held against itself: a place that says otherwise is
// damaged, and going on from it would lose or repeat steps in silence. Called by SavedRun.
#pragma once

#include <string_view>

#include "megatron/checkpoint.h"
#include "run/checkpoint.h"

namespace trestle {

/// The directory's name, common.pt, train_state.pt and run_config.yaml, those of them that say a
/// step, say the same. Throws UserError, `what` first, with two places and both values.
void require_one_step(const MegatronCheckpoint& checkpoint, std::string_view what);

/// The scheduler's num_steps, and the step, betas and eps of the optimizer's param_groups are what
/// `progress`, as it was read, and `own` (kProgress) say; what is missing, and checkpoints without
/// an identity, which others made, are not compared. Throws as require_one_step does.
void require_same_optimizer(const MegatronCheckpoint& checkpoint, const RunProgress& progress,
                            const Json& own, std::string_view what);

}  // namespace trestle
