// All topologies of a number of ranks that a model's sizes and a batch allow, the best first.
// Called by `trestle plan`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/memory.h"
#include "planner/step.h"

namespace trestle {

/// Axes that are not to be chosen.
struct FixedAxes {
  std::optional<int64_t> tensor = {}, context = {}, pipeline = {}, virtual_pipeline = {};
  std::optional<bool> sequence_parallel = {};
};

struct Candidate {
  Topology topology;
  MemoryPlan memory;
  StepPlan step;
  bool fits = false;
};

/// Those that fit by tokens a second, then the others by the memory they lack. Of two alike the one
/// with less traffic, then with fewer axes, comes first. Throws UserError where the fixed axes are
/// none of the model's (require_topology), do not divide the ranks, or leave data ranks without a
/// sample.
std::vector<Candidate> all_topologies(const PlannedRun& run, const Machine& machine,
                                      const FixedAxes& fixed);

/// Why the first of them is to be taken, or what would make one fit: a few lines.
std::vector<std::string> reasons(const std::vector<Candidate>& all, const PlannedRun& run,
                                 const Machine& machine);

}  // namespace trestle
