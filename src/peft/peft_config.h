// adapter_config.json of a PEFT folder: what of it we honour, and the refusal of all the rest.
// Called by peft_folder.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "peft/sites.h"

namespace trestle {

struct PeftConfig {
  /// alpha / rank is the scale, use_rslora already in it.
  AdapterNumbers numbers;
  /// Modules, or ends of their names, that must have an adapter; nothing where the file says it
  /// with a pattern or with exceptions.
  std::optional<std::vector<std::string>> target_modules;
};

/// Throws UserError, `what` first, for another method than LoRA and for every option that would
/// change the result and is not supported, by its name.
PeftConfig parse_peft_config(const Json& json, std::string_view what);

/// `target_modules` are whole module names, so that they match nothing else: in a list peft takes a
/// bare `q_proj` for every module of that name, those of the vision tower too.
Json make_peft_config(const AdapterNumbers& numbers, const std::vector<std::string>& target_modules,
                      const std::string& base_model);

}  // namespace trestle
