// The part of a tensor that one of several ranks holds, by its Split. Called by the layers, which
// take the shapes, and by whoever loads, draws or saves their values.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "parallel/plan.h"

namespace trestle {

/// One of `ranks` that share a tensor out.
struct RankOf {
  int64_t rank = 0, ranks = 1;
};

/// A run of the whole tensor's cut axis that lies together in the share's.
struct ShareRun {
  int64_t whole_first = 0, share_first = 0, count = 0;
};

/// The axis that a split cuts; 0 where it cuts none.
int64_t axis_of(Split split);
/// In the share's order. `whole` is the size of the cut axis, a multiple of the ranks (twice the
/// ranks for kHalvedRows).
std::vector<ShareRun> share_runs(Split split, int64_t whole, RankOf who);
/// Shape of a share, and the reverse.
std::vector<int64_t> share_sizes(at::IntArrayRef whole, Split split, int64_t ranks);
std::vector<int64_t> whole_sizes(at::IntArrayRef share, Split split, int64_t ranks);
/// A view where the share lies together.
at::Tensor share_of(const at::Tensor& whole, Split split, RankOf who);

}  // namespace trestle
