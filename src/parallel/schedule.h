// In which order a stage of a pipeline takes the forward and backward passes of a step's
// micro-batches: 1F1B and its interleaved form. Pure lists, which the runner of a model follows
// (train/pipeline.h) and a planner can lay out in time.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <vector>

#include "parallel/topology.h"

namespace trestle {

/// One pass of one micro-batch through one chunk of the model: chunk c is stage c % pipeline's.
struct PipelinePass {
  enum class Kind { kForward, kBackward };
  Kind kind;
  int64_t micro_batch, chunk;
  auto operator<=>(const PipelinePass&) const = default;
};

/// What stage `stage` of topology.pipeline does in a step, in this order: each of its chunks'
/// passes of each micro-batch, forward and backward. Without virtual stages 1F1B (Narayanan et al.
/// 2019, PipeDream-Flush): min(pipeline - stage - 1, micro_batches) forward passes, then one
/// forward and one backward pass in turn. With them interleaved 1F1B (Narayanan et al. 2021,
/// section 2.2): micro-batches go through in groups of `pipeline`, of which each takes all of a
/// chunk's passes before the next chunk's. Where the stages do not divide the micro-batches, which
/// megatron-core refuses, the order is that of the next number that they divide, without those that
/// are not there: whoever waits still waits for what comes.
std::vector<PipelinePass> pipeline_schedule(const Topology& topology, int64_t stage,
                                            int64_t micro_batches);

/// Activations of that many passes (of one chunk each) are kept at most at a time:
/// min(pipeline - stage, micro_batches), and interleaved
/// min(2 (pipeline - stage - 1) + (virtual - 1) pipeline + 1, virtual micro_batches), where the
/// stages divide the micro-batches; at most that where they do not.
int64_t most_in_flight(const Topology& topology, int64_t stage, int64_t micro_batches);

/// The share of a step in which a stage waits, messages taking no time and chunks being equal:
/// (pipeline - 1) / (virtual micro_batches + pipeline - 1). Interleaved it is at most
/// 1 - virtual micro_batches / (virtual n + pipeline - 1), n the next number of micro-batches that
/// the stages divide.
double bubble(const Topology& topology, int64_t micro_batches);

/// Seconds that passes of one chunk, or of all chunks of a stage, take.
struct StageTime {
  double forward = 0, backward = 0;
};

/// When each pass of a stage's list ends, if its passes take as long as `takes` says of its stage,
/// messages `send`, and every stage begins each pass as soon as it can.
struct Timeline {
  std::vector<std::vector<double>> ends;
  double length = 0;
};
/// None where stages would wait for each other for ever.
std::optional<Timeline> timeline(const Topology& topology,
                                 const std::vector<std::vector<PipelinePass>>& stages,
                                 const std::vector<StageTime>& takes, double send = 0);

}  // namespace trestle
