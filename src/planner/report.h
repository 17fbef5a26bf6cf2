// A plan for people and for programs. Called by `trestle plan`.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "planner/search.h"

namespace trestle {

/// What the plan is of: model, sample and machine, a line each.
std::string plan_heading(const PlannedRun& run, const Machine& machine);
/// `rows` of them at most (0: all), the first marked where it fits.
std::string plan_table(const std::vector<Candidate>& all, const Machine& machine, int64_t rows);
/// Bytes, seconds, FLOPs and shares, whole.
Json plan_json(const std::vector<Candidate>& all, const PlannedRun& run, const Machine& machine);

}  // namespace trestle
