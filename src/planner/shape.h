// What a run's model consists of, by name and size and without a value: the weights that a rank of
// any topology holds are sums over it. Called by the planner's formulas.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "metrics/flops.h"
#include "model/config.h"
#include "parallel/plan.h"
#include "parallel/topology.h"
#include "recipes/config.h"

namespace trestle {

/// Ministral 3 "3b", "8b" or "14b" as their config.json has them. Throws UserError for another
/// size.
ModelConfig ministral3_of_size(const std::string& size);

/// A parameter, or what a projection holds in its place.
struct PlannedWeight {
  std::string name;
  int64_t rows = 0, count = 0;
  /// As it is held: of peft.base_bits 4, 8 and fp8 codes and scales.
  int64_t bytes = 0;
  bool trains = false, decayed = false;
  Split split = Split::kReplicated;
};

/// The whole model of a run, on torch's meta device.
class ModelShape {
 public:
  /// With the adapters of config.peft, or what model.freeze_* leave to train. Throws UserError
  /// where the trainer would: for adapters that the model has no place for, and where nothing
  /// trains.
  ModelShape(const ModelConfig& model, const TrainConfig& config);

  const ModelConfig& model() const { return model_; }
  const std::vector<PlannedWeight>& weights() const { return weights_; }
  ShardedSizes sizes() const;
  /// Of forward and backward, and of a forward alone.
  const ModelFlops& training_flops() const { return *training_flops_; }
  const ModelFlops& forward_flops() const { return *forward_flops_; }
  int64_t parameters() const;
  int64_t trained() const;
  /// Of any parameter whose name begins so.
  bool trains(std::string_view prefix) const;
  /// Whether a gradient reaches the vision tower's or the projector's output.
  bool vision_trains() const;
  /// Ranks of a projection's adapters together, by its name; 0 where it has none.
  int64_t adapter_rank(const std::string& projection) const;

 private:
  ModelConfig model_;
  std::vector<PlannedWeight> weights_;
  std::map<std::string, int64_t> ranks_;
  std::unique_ptr<ModelFlops> training_flops_, forward_flops_;
};

/// Elements of one tensor rank.
int64_t share_of_rank(const PlannedWeight& weight, int64_t count, int64_t tensor_ranks);
/// The stage that holds it first; a tied embedding is the head on the last stage too.
int64_t stage_of(const PlannedWeight& weight, const Topology& topology, int64_t layers);

}  // namespace trestle
