// adapter_config.json of a PEFT folder: what of it we honour, and the refusal of all the rest.
// Called by peft_folder.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace trestle {

struct PeftConfig {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  bool rslora = false;
  bool dora = false;
  /// Whether ranks differ by module (rank_pattern): each is then that of its tensors.
  bool ranks_differ = false;
  /// alpha_pattern: module names, ends of them, or "^" and a whole name; in the file's order.
  std::vector<std::pair<std::string, double>> alphas;
  /// Modules, or ends of their names, that must have an adapter; nothing where the file says it
  /// with a pattern or with exceptions.
  std::optional<std::vector<std::string>> target_modules;

  /// The alpha of which alpha / rank is the scale of a module's adapter. `module` is canonical.
  double scaling_alpha(const std::string& module, int64_t rank) const;
};

/// Whether peft takes `name` for `module` (canonical): it is the whole name in any spelling, or
/// ends it.
bool names_module(const std::string& name, const std::string& module);

/// Throws UserError, `what` first, for another method than LoRA and DoRA and for every option that
/// would change the result and is not supported, by its name.
PeftConfig parse_peft_config(const Json& json, std::string_view what);

/// What one module's adapter has, under its whole name as the file spells it.
struct PeftModule {
  std::string name;
  int64_t rank;
  double alpha;
};

/// target_modules are whole module names, so that they match nothing else: in a list peft takes a
/// bare `q_proj` for every module of that name, those of the vision tower too. r and lora_alpha are
/// what most modules have; the others stand in rank_pattern and alpha_pattern.
Json make_peft_config(const std::vector<PeftModule>& modules, double dropout, bool dora,
                      const std::string& base_model);

}  // namespace trestle
