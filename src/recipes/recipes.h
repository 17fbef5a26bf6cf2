// Recipes: the base config, a size, a mode, and nothing else. A committed text file beside the
// tests shows each one whole. Called by `trestle finetune --recipe` and `trestle recipes`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipes/config.h"

namespace trestle {

/// What Megatron Bridge's ministral3_*_finetune_config functions take.
struct FinetuneArguments {
  /// The run is saved under $SAVE_DIR/name, where SAVE_DIR is set.
  std::string name;
  std::string pretrained_checkpoint;
  /// hf: a maker of a data set of the Hub; own data: jsonl, parquet or webdataset.
  std::string dataset_type = "hf";
  /// none, lora or dora; nothing: what the recipe is of. It decides the rates too: 5e-6 -> 5e-7
  /// where weights train, 1e-4 -> 1e-5 where adapters do.
  std::optional<std::string> peft;
  std::optional<int64_t> train_iters, global_batch_size;
  bool freeze_language_model = false;
  bool freeze_vision_model = false;
  bool freeze_vision_projection = false;
};

struct Recipe {
  std::string name, help;
  TrainConfig (*make)(const FinetuneArguments& arguments);
};

/// In the order of the listing.
const std::vector<Recipe>& recipes();
/// Megatron Bridge's names of 2026 for the same: ministral3_3b_sft_1gpu_h100_bf16_config.
std::vector<std::string> other_recipe_names();
/// By any of its names. Throws UserError for none, naming one that is near.
TrainConfig recipe(const std::string& name, const FinetuneArguments& arguments = {});

/// Full fine-tuning unless `peft` says otherwise. Sizes differ in the tensor parallelism of
/// Megatron Bridge's table, and in nothing of one process.
TrainConfig ministral3_3b_finetune_config(const FinetuneArguments& arguments = {});
TrainConfig ministral3_8b_finetune_config(const FinetuneArguments& arguments = {});
TrainConfig ministral3_14b_finetune_config(const FinetuneArguments& arguments = {});
/// The embedded demo: LoRA on a 3 M parameter model.
TrainConfig demo_config(const FinetuneArguments& arguments = {});

}  // namespace trestle
