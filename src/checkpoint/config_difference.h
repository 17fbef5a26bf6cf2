// Where a config contradicts what a checkpoint says of its own model. Called where weights in
// Megatron's form are opened with a config from elsewhere, and adapters on a base.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "megatron/checkpoint.h"
#include "model/config.h"

namespace trestle {

/// A key as config.json spells it, and what either side says of it.
struct ConfigDifference {
  std::string key, ours, theirs;
};

/// The keys on which shapes or arithmetic depend and that differ, in the order of the config. What
/// only bounds or describes (max_position_embeddings, the vision tower's image_size, dtype, names)
/// is not looked at, nor is tie_word_embeddings, which the tensors decide.
std::vector<ConfigDifference> config_differences(const ModelConfig& ours,
                                                 const ModelConfig& theirs);

/// The same against the provider's arguments in a run_config.yaml (model.num_query_groups, ...), as
/// far as it states them.
std::vector<ConfigDifference> provider_differences(const ModelConfig& ours, const Json& run_config);

/// Throws UserError, naming the key and both values, where what `checkpoint` says of its model in
/// its run_config.yaml (model.hf_config or, where that is none we know, the provider's arguments)
/// contradicts `config`, which is of `whose`. The shapes of weights say less: as many rows may be
/// twice the heads of half the size, and another rotation has no shape.
void require_same_model(const MegatronCheckpoint& checkpoint, const ModelConfig& config,
                        std::string_view whose);

}  // namespace trestle
