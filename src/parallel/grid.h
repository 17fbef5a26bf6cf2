// The groups of one rank in a run of many: who shares its layers, its rows, its data. Made by the
// trainer from a world and a topology; handed to the model in its Build.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "parallel/group.h"
#include "parallel/topology.h"

namespace trestle {

class World;

/// A rank's place along each axis.
struct Place {
  int64_t tensor = 0, context = 0, data = 0, pipeline = 0;
  bool operator==(const Place&) const = default;
};

/// Rank order is Megatron's tp-cp-dp-pp (megatron-core parallel_state, `order`): tensor ranks are
/// neighbours, stages the farthest apart.
Place place_of(const Topology& topology, int64_t rank);
int64_t rank_of(const Topology& topology, const Place& place);

struct Grid {
  /// One rank with the whole model.
  Grid() = default;
  /// Made by all ranks of the world at once. Throws UserError where topology and world differ in
  /// size.
  Grid(const World& world, const Topology& topology, at::Device device);

  Topology topology;
  Place place;
  /// Ranks that hold slices of the same weights.
  Group tensor;
  /// Ranks that hold pieces of the same rows.
  Group context;
  /// Ranks that hold the same weights and take other rows.
  Group data;
  /// Stages of one model.
  Group pipeline;
  /// Over which the gradients of a weight that tensor ranks share out are summed: data x context.
  Group gradients;
  /// The same of a weight that all tensor ranks have whole: data x context x tensor.
  Group whole_gradients;
  /// First and last stage, which share a tied embedding; of one elsewhere.
  Group embedding;
  /// All that hold parts of one model's weights: tensor x pipeline.
  Group model;
  Group world;

  bool is_first_stage() const { return place.pipeline == 0; }
  bool is_last_stage() const { return place.pipeline == topology.pipeline - 1; }
};

}  // namespace trestle
