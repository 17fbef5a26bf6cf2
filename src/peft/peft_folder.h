// An adapter as the peft library keeps it: adapter_config.json beside adapter_model.safetensors.
// Called by load_adapter, export and the trainer.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "bridge/check.h"
#include "checkpoint/hf_layout.h"

namespace trestle {

class Ministral3;

/// Whether `path` has an adapter_config.json.
bool is_peft_folder(const std::filesystem::path& path);

/// Reads PREFIX.layers.N.self_attn.q_proj.lora_A.weight [r, in], .lora_B.weight [out, r] and, with
/// use_dora, .lora_magnitude_vector [out] or
/// .lora_magnitude_vector.weight, PREFIX in any spelling of the module names, with or without
/// peft's `base_model.model.`. The adapter takes PEFT's form. Throws UserError when a tensor
/// belongs to no projection of the model, an adapter that the config lists is missing, or
/// an option is not supported.
void load_peft_folder(Ministral3& model, const std::filesystem::path& directory);

/// Config, header, and that each lora_A and lora_B meet in a rank; which modules there are only the
/// base model knows.
CheckReport check_peft_folder(const std::filesystem::path& directory);

struct PeftFolderOptions {
  /// kModelFirst is what peft wants over transformers 5, kLanguageModelFirst what older programs
  /// want. A text-only model has only one spelling.
  HfSpelling spelling = HfSpelling::kModelFirst;
  /// base_model_name_or_path.
  std::string base_model = {};
  bool replace = false;
  /// Sees the finished folder before it gets its name; what it throws leaves nothing behind.
  std::function<void(const std::filesystem::path&)> verify = {};
};

/// Writes the model's adapters in their dtype; in Megatron's form the parts of a fused projection
/// share linear_in as their lora_A. Nothing is visible under `directory` before all is written.
/// Throws UserError when it exists and is not empty, MachineError when the disk refuses.
void save_peft_folder(const Ministral3& model, const std::filesystem::path& directory,
                      const PeftFolderOptions& options = {});

}  // namespace trestle
