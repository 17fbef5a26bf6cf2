// Time and traffic of a step. Everything here is modelled: operations over a rate, bytes over a
// rate, one behind the other. Called by `trestle plan`.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/schedule.h"
#include "planner/machine.h"
#include "planner/run.h"

namespace trestle {

/// Bytes that one rank sends in a step, of the stage that sends most of each.
struct StepTraffic {
  double tensor = 0, context = 0, pipeline = 0, data = 0;
  double total() const { return tensor + context + pipeline + data; }
};

struct StepPlan {
  /// Of the whole step; its parts add up to it.
  double seconds = 0;
  double compute = 0, tensor = 0, context = 0, pipeline = 0, bubble = 0, data = 0, optimizer = 0;
  /// Forwards of each data rank.
  int64_t micro_batches = 0;
  /// Share of the schedule that the slowest stage waits: (p - 1) / (m v + p - 1) (Narayanan et al.
  /// 2021, section 2.2).
  double bubble_share = 0;
  /// Model FLOPs of all ranks (metrics/flops.h), and tokens.
  double flops = 0;
  int64_t tokens = 0;
  StepTraffic traffic;

  double tokens_a_second() const { return static_cast<double>(tokens) / seconds; }
  /// Model FLOPs over what the ranks could make in that time (PaLM's MFU).
  double utilization(const Machine& machine) const {
    return flops / (seconds * static_cast<double>(machine.ranks) * machine.flops.value);
  }
};

StepPlan step_of(const PlannedRun& run, const Topology& topology, const Machine& machine);

/// Of each stage, one micro-batch through all its chunks: products, and the sums of tensor and
/// context ranks between them.
std::vector<StageTime> stage_times(const PlannedRun& run, const Topology& topology,
                                   const Machine& machine);
/// From the end of a chunk to its arrival at the next stage.
double send_seconds(const PlannedRun& run, const Topology& topology, const Machine& machine);

/// Bytes that each of n ranks sends for one all-reduce of `bytes` around a ring: 2 (n - 1) / n of
/// them (Patarasuk and Yuan 2009). A gather or a scatter is half.
double all_reduce_bytes(double bytes, int64_t ranks);
double gather_bytes(double bytes, int64_t ranks);

}  // namespace trestle
