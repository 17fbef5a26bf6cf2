// The states of torch's generators in a checkpoint: of every rank its own, a row each. Called by
// the snapshot and by SavedRun.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "megatron/checkpoint.h"
#include "megatron/shard.h"

namespace trestle {

/// What a checkpoint has beside Megatron's entries: the state [bytes] of a run of one rank, or
/// [ranks, bytes].
constexpr const char* kRandomState = "trestle.rng_state";
/// Of the card's generator; of runs on a card alone.
constexpr const char* kCardRandomState = "trestle.card_rng_state";

/// This rank's part of both, of those that there are on `device`.
std::vector<HeldTensor> held_random_state(at::Device device, const ShardPlan& plan);

/// The generator goes on where this rank's was. Under another topology ranks that take the first
/// rows go on where rank 0 was, and others draw anew from what it was and from which rows they
/// take: ranks that share rows draw the same.
void load_random_state(at::Generator generator, const MegatronCheckpoint& checkpoint,
                       const std::string& name, const ShardPlan& plan);

}  // namespace trestle
