// Work of known cost shared out over ranks, the same way on each of them. Called by the model for
// pictures and by the trainer for rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trestle {

/// The owner, 0 .. ranks-1, of each item: the costliest first, each to whom has least so far
/// (Graham 1969: at most 4/3 of the best). Ties go to the first item and the lowest rank.
std::vector<int64_t> share_out(std::span<const double> costs, int64_t ranks);

}  // namespace trestle
