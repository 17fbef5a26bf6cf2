// How many ranks share a model, in which ways, and which numbers of them a model's sizes allow.
// Called by the grid, the trainer, checkpoints and the planner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trestle {

/// Ranks along each axis. Rank order is Megatron's tp-cp-dp-pp: tensor changes fastest.
struct Topology {
  int64_t tensor = 1, context = 1, data = 1, pipeline = 1;
  /// Runs of layers ("chunks") that each stage holds in the interleaved schedule (Narayanan et al.
  /// 2021, section 2.2); 1: a single one.
  int64_t virtual_pipeline = 1;
  /// Norms and residuals on tokens / tensor of each rank (Korthikanti et al. 2022).
  bool sequence_parallel = false;

  int64_t world() const { return tensor * context * data * pipeline; }
  /// Ranks that hold one copy of the model together.
  int64_t model() const { return tensor * pipeline; }
  /// Runs of layers that the decoder is cut into.
  int64_t chunks() const { return pipeline * virtual_pipeline; }
  bool operator==(const Topology&) const = default;
};

/// Those of a number, from 1 on.
std::vector<int64_t> divisors(int64_t number);

/// "TP 4 CP 1 PP 2x3 DP 8 SP": for people.
std::string to_string(const Topology& topology);

/// What of a model bounds its topologies.
struct ShardedSizes {
  int64_t layers = 0, heads = 0, query_groups = 0, ffn = 0, vocabulary = 0;
};

/// Those that divide query groups, heads, ffn and vocabulary, from 1 on.
std::vector<int64_t> tensor_sizes(const ShardedSizes& sizes);
/// Stages of `virtual_pipeline` chunks each that a decoder of so many layers fills: every chunk has
/// the same number of layers or, without virtual stages, one more or less.
std::vector<int64_t> pipeline_sizes(const ShardedSizes& sizes, int64_t virtual_pipeline = 1);
/// Chunks a stage that `pipeline` stages may have, from 1 on.
std::vector<int64_t> virtual_pipeline_sizes(const ShardedSizes& sizes, int64_t pipeline);

/// Throws UserError naming the key, both sizes and the values that would do. `world`: the ranks
/// there are; topology.data must be what the other axes leave of them.
void require_topology(const Topology& topology, const ShardedSizes& sizes, int64_t world);
/// The same without a number of ranks.
void require_topology(const Topology& topology, const ShardedSizes& sizes);

/// `topology` with data = world over the other axes. Throws UserError where those do not divide it.
Topology over_world(Topology topology, int64_t world);

/// Decoder layers [first, last).
struct LayerRun {
  int64_t first = 0, last = 0;
  int64_t size() const { return last - first; }
  bool operator==(const LayerRun&) const = default;
};
/// Of chunk 0 .. chunks()-1 in the order of the layers, as PipelinePlan has them; chunk c is stage
/// c % pipeline's number c / pipeline.
LayerRun layers_of_chunk(const Topology& topology, int64_t layers, int64_t chunk);

}  // namespace trestle
