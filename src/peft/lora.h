// LoRA and DoRA on any part of the model: attach for training, load from disk, merge into the
// weights. Called by the trainer, generate, logits and export.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "peft/lora_config.h"

namespace trestle {

class Ministral3;

struct AdapterSummary {
  /// Projections that have an adapter.
  int64_t modules = 0;
  /// Parameters that train, and all of them with the adapters.
  int64_t trainable = 0;
  int64_t total = 0;
  /// Whether the model computes what it would without them: every B is zero and, in DoRA, every
  /// magnitude the norm of its row. Only a loaded adapter is looked at, and one of DoRA not without
  /// the base's weights.
  bool changes_nothing = false;
};

/// Adapts `config.target_modules` in every layer, in each weight's dtype and device, initialised
/// from `seed` alone (PiSSA from the weights), and freezes everything else; DoRA's magnitudes start
/// as the rows' norms, so the model must have its weights. With PiSSA the base is changed by
/// take_initial_from_base(), behind which the model is what it was. Throws UserError as validate()
/// does, for a part that this model lacks, and for a rank that no projection of this model can use.
AdapterSummary attach_lora(Ministral3& model, const LoraConfig& config, uint64_t seed);

/// The same adapters without values, on the meta device, of a model that is there too: for sizes.
/// Throws what attach_lora does.
void attach_lora_shapes(Ministral3& model, const LoraConfig& config);

/// Attaches the adapter of a PEFT folder or of a Megatron adapter checkpoint and freezes everything
/// else. Throws UserError when it is neither, does not fit, or asks for what is not supported. On a
/// model on the meta device the adapters lie on the CPU as they are stored: one form becomes the
/// other without the base's weights.
AdapterSummary load_adapter(Ministral3& model, const std::filesystem::path& path);

bool has_adapters(const Ministral3& model);
/// The config of the adapters that the model has, one at least: what a checkpoint of them must
/// state. Throws UserError when they have several ranks or alphas, which no such config can say.
LoraConfig lora_config_of(const Ministral3& model);

/// What to tell of an adapter that changes_nothing.
std::string nothing_changes_warning(const std::filesystem::path& adapter);

/// Adds every adapter to its weight, in fp32 rounded once, and removes it. Returns their number.
int64_t merge_adapters(Ministral3& model);

}  // namespace trestle
