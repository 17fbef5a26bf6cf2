// A run that is thought through without its weights: its config, and its model's sizes. Called by
// plan and rehearse, and by finetune for the config.
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

/// The recipe, the keys of `config_file`, where one is named, and those of `command_line` over it.
SettledRun settle_chosen(const RecipeChoice& recipe, const std::string& config_file,
                         const std::vector<Assignment>& command_line);
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
