// Where a run stands, as its checkpoint says it: numbers of a file that nobody vouches for, each
// held to what a run of so many steps can have. Called by SavedRun.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "run/identity.h"

namespace trestle {

struct RunProgress;

/// `own`: kProgress, an object; keys that came later may be missing. `train_state`: that of
/// train_state.pt. The lineage is not among them. Throws UserError, `what` first, naming the key,
/// what it says and what could stand there.
RunProgress progress_in(const Json& own, const Json& train_state, int64_t step,
                        std::string_view what);

/// Whether steps of both take one batch of the same size, and drop samples alike.
bool takes_same_batches(const RunIdentity& one, const RunIdentity& other);

}  // namespace trestle
