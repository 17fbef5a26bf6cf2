// A long run on many ranks, played through: the schedule of its stages event by event, and failures
// drawn at random between checkpoints. Everything here is modelled. Called by `trestle plan
// --simulate`.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/search.h"

namespace trestle {

struct Schedule {
  /// From the first forward to the last backward.
  double seconds = 0;
  /// Of each stage, the share of that in which it waits.
  std::vector<double> idle;
};

/// 1F1B or, of several chunks, the interleaved schedule in megatron-core's order: every forward and
/// backward begins when its stage is free and what it needs has been sent (`send` seconds). Behind
/// 8 micro-batches a stage the rest are taken to go on as the slowest stage does.
Schedule simulate_schedule(const Topology& topology, int64_t micro_batches,
                           const std::vector<StageTime>& stages, double send);

/// What breaks, and what that costs, in seconds.
struct Failures {
  /// Mean time between failures of the whole run: a rank's over the number of ranks.
  double mean_time = 0;
  /// Of a checkpoint, during which nothing trains; from a failure to the first step again.
  double save = 0, restart = 0;
};

/// Seconds of work between checkpoints that lose least: Young (1974), sqrt(2 save M), and Daly
/// (2006, equation 37), which holds where a save is no longer small beside M.
double young_interval(const Failures& failures);
double daly_interval(const Failures& failures);
/// Mean seconds until `work` of them are done, saving every `interval` (Daly 2006, equation 20).
double expected_seconds(const Failures& failures, double work, double interval);

struct PlayedRun {
  double seconds = 0, failures = 0;
  /// Work made twice; saving; restarting.
  double lost = 0, saving = 0, restarting = 0;
};

/// The mean of `times` runs with failures drawn from an exponential distribution.
PlayedRun simulate_failures(const Failures& failures, double work, double interval, uint64_t seed,
                            int64_t times);

/// Bytes of a checkpoint: weights that train, or all of them in full fine-tuning, masters and
/// moments.
double checkpoint_bytes(const PlannedRun& run);

/// Of a rank, hours between failures, bytes a second that a checkpoint is written with by all ranks
/// together, and seconds from a failure to the first step again.
struct SimulateOptions {
  double mean_hours = 50'000;
  double disk = 10e9;
  double restart = 300;
};

/// Lines about the run of one topology.
std::vector<std::string> simulated(const PlannedRun& run, const Candidate& one,
                                   const Machine& machine, const SimulateOptions& options);

}  // namespace trestle
