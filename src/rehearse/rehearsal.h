// A run's topology as threads of this process, on a model of the same parallel shape: whether its
// losses, gradients and weights are those of one rank, and what a rank sends. Called by `trestle
// rehearse`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/group.h"
#include "parallel/topology.h"
#include "recipes/config.h"

namespace trestle {

/// One number of one rank's run and of many ranks'.
struct RehearsedNumber {
  std::string name;
  double one = 0, many = 0;
  /// |many - one| / |one|, or the worst of a tensor's elements over the largest of them.
  double difference = 0;
};

struct RehearsedTraffic {
  /// "tensor", "data", ...
  std::string group;
  int64_t ranks = 0;
  /// The most that a rank sent in the rehearsal.
  int64_t calls = 0, bytes = 0;
};

struct Rehearsal {
  Topology topology;
  /// Loss and gradient norm of each step, then the trained parameter that differs most behind them.
  std::vector<RehearsedNumber> numbers;
  std::vector<RehearsedTraffic> traffic;
  /// What a difference may be: fp32 sums in another order.
  double tolerance = 1e-5;
  double seconds_one = 0, seconds_many = 0;

  bool is_equal() const;
};

/// Trains `steps` steps of `config`, in fp32 and by a constant rate, once on one rank and once on
/// topology.world() threads; nothing is written but what the config's own caches keep. Throws
/// UserError as the trainer does, and MachineError where ranks do not come to an end.
Rehearsal rehearse(const TrainConfig& config, const Topology& topology, int64_t steps);

}  // namespace trestle
