// params.json, what Mistral's own files say of a model, to and from the words of config.json.
// Called by MistralCheckpoint on reading and by the bridge on writing.
#pragma once

#include <string_view>

#include "base/json.h"
#include "model/config.h"

namespace trestle {

/// A config.json that means the same, for parse_hf_config. What that has no key for (the largest
/// picture, the ids that end rows and pictures) is kept under `mistral_extras`, where transformers
/// ignores it. Throws UserError (`what` names the file) for a missing or wrongly typed value and,
/// by name, for every key it does not know and every value that is not supported: experts, a
/// sliding window, another quantization, an adapter without patch merger or norm.
Json config_of_params(const Json& params, std::string_view what);

/// The reverse: `config` as params.json, `config_json` (its config.json) for the extras. Weights
/// are written without quantization, so none is stated. Throws UserError by name for what
/// params.json cannot say: another activation than SiLU in the vision tower and GELU in the
/// projector, hidden states other than the last, a YaRN attention factor of one's own.
Json params_of_config(const ModelConfig& config, const Json& config_json);

}  // namespace trestle
