// checkpoint.also_save_hf_checkpoint: what transformers or peft load of a checkpoint, as a folder
// in its own (iter_0000040/hf), by the code of `trestle export`. Called by the trainer and by
// write_checkpoint.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "bridge/load.h"
#include "recipes/config.h"

namespace trestle {

struct HuggingFaceFolder {
  /// A PEFT folder, and not the whole model.
  bool adapters = false;
  /// Of a model: whose config, tokenizer and processor files it gets; nothing for the checkpoint's.
  std::optional<std::filesystem::path> files = {};
  /// Names of those files but config.json; of adapters none.
  std::set<std::string> side_files = {};
  /// Of adapters: base_model_name_or_path.
  std::string base_name = {};
};

/// Nothing where the run writes none. Throws UserError, naming the key, where
/// checkpoint.hf_source_path has no config or one of other shapes or arithmetic than `base`; for
/// adapters, whose base it names, where its weights are missing or others (weights_difference); for
/// a model where it lacks a tokenizer or processor file that the base has.
std::optional<HuggingFaceFolder> huggingface_folder(const TrainConfig& config,
                                                    const OpenCheckpoint& base);

/// Into `iteration`, which is complete but for it and need not have its name yet.
void write_folder(const HuggingFaceFolder& folder, const std::filesystem::path& iteration);

}  // namespace trestle
