// run_config.yaml of Megatron Bridge: the model's Hugging Face config and the provider's arguments
// in OmegaConf's spelling (`_target_: dotted.class`). Called by the checkpoint (reading)
// and its writer.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

#include "base/json.h"
#include "model/config.h"

namespace trestle {

/// `model.hf_config` as a config.json has it: classes and enums by their names, model_type and
/// dtype put back where the file leaves them to the class. Nothing when the file has no hf_config.
std::optional<Json> hf_config_of_run_config(const Json& run_config);

/// What megatron-bridge needs to export, load and resume the checkpoint. `hf_config` is the
/// config.json; weights are written dequantised, so its quantization_config is left out. `dtype` is
/// that of the weights.
Json make_run_config(const Json& hf_config, const ModelConfig& config, at::ScalarType dtype,
                     bool has_optimizer, bool per_layer_keys);

}  // namespace trestle
