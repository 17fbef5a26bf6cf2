// What a number of a run may be at most. Called by the options beside it and by the command
// line.
#pragma once

#include "base/fields.h"

namespace trestle {

// Bounds that no run comes near and no product of which overflows.
constexpr double kMostSteps = 1e9, kMostSamples = 1e6, kMostTokens = 1 << 24, kMostRanks = 1 << 20;
// Of ImageLimits.
constexpr Range kMaxEdgeRange = between(0, 1 << 20);
constexpr Range kMaxTokensRange = or_zero(between(2, kMostTokens));
// Whole numbers up to here are exact in a double.
constexpr double kMostSeed = 9007199254740992;

}  // namespace trestle
