// What one rank holds of what a checkpoint has: of the weights that a run trains, and of the
// optimizer's state. Written by the snapshot, and filled by SavedRun, whatever the topology was.
#pragma once

#include <vector>

#include "kernels/optimizer.h"
#include "megatron/shard.h"

namespace trestle {

class Ministral3;

/// Parameters, in the order of named_parameters(); of adapters alone with `adapters`. They share
/// the model's memory.
std::vector<HeldTensor> held_weights(const Ministral3& model, bool adapters, const ShardPlan& plan);

/// `optimizer.state.*` of its parameters, likewise.
std::vector<HeldTensor> held_state(const AdamW& optimizer, const ShardPlan& plan);

}  // namespace trestle
