// Which decoder layers each stage of a pipeline holds: in equal runs, as the keys of Megatron say,
// or levelled by cost. Handed to the model in its Build.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/topology.h"

namespace trestle {

/// What one rank of a pipeline holds of a model. The first also has the embedding, the vision tower
/// and the projector, the last the final norm and the head, which, where tied, is a second copy of
/// the embedding under the embedding's name.
struct Stage {
  /// In the order of the layers, of which each is at least one; several with virtual stages.
  std::vector<LayerRun> chunks;
  bool is_first = true, is_last = true;

  bool holds(int64_t layer) const;
};

/// One a chunk of the topology, in the order of the layers.
using LayerRuns = std::vector<LayerRun>;

/// Stage number `stage` of those that `runs` lays out: chunks stage, stage + pipeline, ...
Stage stage_of_runs(const Topology& topology, const LayerRuns& runs, int64_t stage);

/// Equal, as layers_of_chunk() has them.
LayerRuns equal_runs(const Topology& topology, int64_t layers);

/// Megatron's keys of unequal stages, model.*.
struct StageLayout {
  /// num_layers_in_first_pipeline_stage, num_layers_in_last_pipeline_stage: those of all of the
  /// stage's chunks; 0: as the others.
  int64_t in_first = 0, in_last = 0;
  /// account_for_embedding_in_pipeline_split, account_for_loss_in_pipeline_split: they count as a
  /// layer of the first stage and of the last.
  bool counts_embedding = false, counts_loss = false;
};

/// Throws UserError naming the keys where the others do not share out what is left, as
/// megatron-core's get_num_layers_to_build does.
LayerRuns runs_of_layout(const Topology& topology, int64_t layers, const StageLayout& layout);

/// What a micro-batch takes in each part of a model, in any one unit.
struct PartCosts {
  std::vector<double> layers;
  /// Vision tower, projector and embedding; final norm and head.
  double before = 0, behind = 0;
};

/// Runs of at least one layer whose dearest stage (the sum of its chunks) is as cheap as it can be
/// without virtual stages; with them chunk by chunk. Throws UserError where there are fewer layers
/// than runs. Of equals the one that fills early stages
/// least: their activations stay longest.
LayerRuns levelled_runs(const Topology& topology, const PartCosts& costs);

/// Of each stage's work, over the mean: 1 where they are equal.
double imbalance(const Topology& topology, const LayerRuns& runs, const PartCosts& costs);

}  // namespace trestle
