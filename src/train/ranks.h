// The ranks of a training run: who shares what, and the groups over which they decide together.
// Made by the trainer of its world.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "megatron/shard.h"
#include "parallel/grid.h"
#include "recipes/config.h"

namespace trestle {

class World;

/// How `world` ranks share the model and the data by the keys of `config`. One process has the
/// whole model whatever they say. Throws UserError for what the number of ranks does not allow.
Topology topology_of(const TrainConfig& config, int64_t world);

/// `device` on which this rank computes: of `auto` or `cuda` the card of its number on the machine.
std::string device_of_rank(const std::string& device, const World& world);

struct Ranks {
  /// One with the whole model.
  Ranks() = default;
  /// Made by all ranks at once.
  Ranks(const World& world, const Topology& topology, at::Device device);

  int64_t rank = 0, size = 1;
  Grid grid;
  /// Those of grid.data by their numbers in the run.
  std::vector<int64_t> sample_ranks = {0};
  /// All ranks once more, for whoever writes checkpoints while a step is made.
  Group saving;

  /// What this rank has of the model.
  ShardPlan plan(bool distributed_optimizer) const {
    return {grid.topology, grid.place, size > 1 && distributed_optimizer};
  }

  bool is_first() const { return rank == 0; }
  bool is_one() const { return size == 1; }
};

}  // namespace trestle
