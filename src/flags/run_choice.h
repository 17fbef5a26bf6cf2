// A run that is thought through without its weights: its config, and its model's sizes. Called by
// plan and rehearse.
#pragma once

#include <string>
#include <vector>

#include "flags/command.h"
#include "flags/recipe_choice.h"
#include "model/config.h"
#include "recipes/settle.h"

namespace trestle {

struct RunChoice {
  RecipeChoice recipe;
  std::string config_file, model_path;
  std::vector<std::string> overrides;
};

/// --recipe, --model, --mode, --config, --hf-model-path and overrides.
void add_run_choice(Command command, RunChoice& choice);

/// Throws UserError for keys and values that no run has.
SettledRun settled(const RunChoice& choice);

struct FoundModel {
  ModelConfig config;
  bool is_fp8 = false;
};

/// Of --hf-model-path, else of checkpoint.pretrained_checkpoint where that is here, else of the
/// size that the recipe's name says, which a line on stderr tells. Throws UserError where none
/// does.
FoundModel found_model(const RunChoice& choice, const TrainConfig& config);

}  // namespace trestle
