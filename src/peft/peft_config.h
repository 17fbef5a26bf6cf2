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

/// Which modules have an adapter, as far as names and numbers say it; regular expressions are kept
/// for whoever knows how the file spells its modules.
struct PeftTargets {
  /// target_modules, where it is a list: modules, or ends of their names.
  std::optional<std::vector<std::string>> named;
  /// target_modules and exclude_modules, where they are texts.
  std::optional<std::string> pattern, excluded_pattern;
  std::vector<std::string> excluded;
  std::optional<std::vector<int64_t>> layers;
  /// Nothing of it is a regular expression: what is allowed must be there.
  bool exact = false;

  /// Whether a module (canonical) may have an adapter, for peft to load it.
  bool allow(const std::string& module) const;
};

struct PeftConfig {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  bool rslora = false;
  bool dora = false;
  /// rank_pattern, as alphas below; nothing where it has regular expressions: each module's rank is
  /// then that of its tensors.
  std::optional<std::vector<std::pair<std::string, double>>> ranks;
  /// alpha_pattern: module names, ends of them, or "^" and a whole name; in the file's order.
  std::vector<std::pair<std::string, double>> alphas;
  PeftTargets targets;

  /// Nothing where only the tensors say it. `module` is canonical.
  std::optional<int64_t> rank_of(const std::string& module) const;
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
