// The names that peft.target_modules may hold, and the projections that they stand for. Called by
// lora, its report and megatron_adapter.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// "lm", "vision" or "projector": the part of the model that a module (Megatron's name) lies in.
std::string_view component_of(std::string_view module);

/// Component and projection, as in "vision.q_proj".
using ChosenParts = std::map<std::string, std::vector<std::string>>;

/// What `target_modules` choose: projection ("lm.linear_qkv", "vision.q_proj") -> its parts that
/// are adapted by themselves, none for the whole. A name without "lm.", "vision." or "projector."
/// before it means the language model only. Throws UserError for a name that does not exist and for
/// two that say one projection in two ways.
ChosenParts chosen_parts(const std::vector<std::string>& target_modules);

/// The name that chooses projection `name`, or a part of one, in the component of `module`.
std::string target_name(std::string_view module, const std::string& name);

/// The target as Megatron Bridge's LoRA takes it, which knows no components and matches names and
/// paths with `*`: "vision.q_proj" -> "vision_tower.*q_proj".
std::string bridge_target(const std::string& target);

}  // namespace trestle
