// Which recipe, mode and data a run is of, in the words of Megatron Bridge's launchers too (of its
// page of 2025 and of scripts/training/run_recipe.py of 2026). Called by finetune and main.
#pragma once

#include <string>
#include <vector>

#include "base/fields.h"
#include "flags/command.h"

namespace trestle {

/// The Bridge's page of 2025 names none; sizes differ in parallelism alone.
constexpr const char* kUsualRecipe = "ministral3_3b_finetune_config";

struct RecipeChoice {
  /// At most one: a recipe, or the beginning of its name (ministral3_3b), which mode completes.
  std::string recipe, model;
  /// sft, lora, dora, or nothing: what the recipe's name says.
  std::string mode;
  /// A data set's name at the Bridge: cord-v2, local-jsonl.
  std::string dataset;
};

void add_recipe_choice(Command command, RecipeChoice& choice);

/// The recipe's name. Throws UserError for a model without a mode and for a mode that the recipe's
/// name contradicts.
std::string chosen_recipe(const RecipeChoice& choice);
/// What mode and data set are as keys.
std::vector<Assignment> chosen_keys(const RecipeChoice& choice);

/// `-gb 8` and the like, flags of two letters behind one dash, in long words: the parser of command
/// lines would read `-g b`.
void spell_short_flags(std::vector<std::string>& arguments);

}  // namespace trestle
