// Recipes: the base config, a size, a mode, and nothing else. A committed text file beside the
// tests shows each one whole. Called by `trestle finetune --recipe` and `trestle recipes`.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"

namespace trestle {

struct Recipe {
  std::string name, help;
  TrainConfig (*make)();
};

/// In the order of the listing.
const std::vector<Recipe>& recipes();
/// Throws UserError naming the nearest.
TrainConfig recipe(const std::string& name);

/// Megatron Bridge's ministral3_3b_finetune_config(peft=...) and its fellows; sizes differ in what
/// a later parallel layout needs, not in anything of one process.
TrainConfig ministral3_sft_config();
TrainConfig ministral3_peft_config();
/// The embedded demo: LoRA on a 3 M parameter model.
TrainConfig demo_config();

}  // namespace trestle
