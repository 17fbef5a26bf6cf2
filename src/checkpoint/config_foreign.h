// What means another kind of model: the names of Mistral's mixtures of experts, and keys of other
// families' configs that change what a model computes, whatever its model_type says. Used by
// hf_config, and by the readers of Mistral's and llama.cpp's forms.
#pragma once

#include <optional>
#include <string_view>

#include "checkpoint/config_section.h"

namespace trestle {

/// "Mistral Small 4" of `mistral4`: what a mixture of experts of Mistral's is sold as, of its
/// model_type or its architecture in GGUF; nothing of other types.
std::optional<std::string_view> mixture_of_experts(std::string_view type);
/// Throws UserError naming the model where model_type, or that of text_config, is one of those.
void refuse_mixtures_of_experts(const ConfigSection& top);

/// Throws UserError, naming key and value, where the section has such a key and the value is not
/// the one that changes nothing (null, false, 0 or an empty list; 1 for factors).
void refuse_foreign_keys(const ConfigSection& section);

}  // namespace trestle
