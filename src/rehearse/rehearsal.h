// A run's topology as threads of this process, on a model of the same parallel shape: whether its
// losses, gradients and weights are those of one rank, and what a rank sends. Called by `trestle
// rehearse`.
#pragma once

#include <cstdint>
#include <memory>
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
  /// Of each step loss, gradient norm, operations and the norm of all weights, then the gradient of
  /// the first that differs most.
  std::vector<RehearsedNumber> numbers;
  std::vector<RehearsedTraffic> traffic;
  /// What a difference may be: fp32 sums in another order.
  double tolerance = 1e-5;
  double seconds_one = 0, seconds_many = 0;

  bool is_equal() const;
};

/// A run that one rank has made, for others to be held against.
class Rehearser {
 public:
  /// Trains `steps` steps of `config`, in fp32 and by a constant rate, on one rank. Nothing is
  /// written but what the config's own caches keep. Throws UserError as the trainer does.
  Rehearser(const TrainConfig& config, int64_t steps);
  ~Rehearser();

  /// The same on topology.world() threads. Throws as they do, and MachineError where ranks do not
  /// come to an end.
  Rehearsal on(const Topology& topology) const;

 private:
  struct One;
  TrainConfig config_;
  std::unique_ptr<One> one_;
};

}  // namespace trestle
