// LoRA on the language tower: attach for training, load from disk, merge into the weights.
// Called by the trainer, generate, logits and export.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "base/fields.h"
#include "model/ministral3.h"

namespace trestle {

/// The `peft` group of a run's config, under Megatron Bridge's names.
struct LoraConfig {
  std::string scheme;
  int64_t dim = 32;
  double alpha = 32;
  double dropout = 0;
  std::vector<std::string> target_modules = {"linear_qkv", "linear_proj", "linear_fc1",
                                             "linear_fc2"};
  std::string lora_A_init_method = "xavier";
  std::string lora_B_init_method = "zero";
  bool use_rslora = false;
  std::string adapter_path;

  /// What B A is multiplied by: alpha / dim, or alpha / sqrt(dim) (Kalajdzievski 2023).
  double scale() const;
  /// Throws UserError for a scheme, target or method that does not exist and for numbers out of
  /// range; needs no model.
  void validate() const;

  static constexpr auto fields() {
    return std::tuple(
        field("scheme", &LoraConfig::scheme, "lora, or empty to train the weights themselves"),
        field("dim", &LoraConfig::dim, "rank of the adapters"),
        field("alpha", &LoraConfig::alpha, "adapters are scaled by alpha / dim"),
        field("dropout", &LoraConfig::dropout, "on the adapters' input, in training"),
        field("target_modules", &LoraConfig::target_modules,
              "linear_qkv, linear_proj, linear_fc1, linear_fc2 (one A for the parts of a fused "
              "projection) or q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj (an A "
              "each); of the language model only"),
        field("lora_A_init_method", &LoraConfig::lora_A_init_method,
              "xavier, kaiming, normal or zero"),
        field("lora_B_init_method", &LoraConfig::lora_B_init_method,
              "xavier, kaiming, normal or zero"),
        field("use_rslora", &LoraConfig::use_rslora, "scale by alpha / sqrt(dim) instead"),
        field("adapter_path", &LoraConfig::adapter_path,
              "start from this adapter; it says dim, alpha and targets"));
  }
};

struct AdapterSummary {
  /// Projections that have an adapter.
  int64_t modules = 0;
  /// Parameters that train, and all of them with the adapters.
  int64_t trainable = 0;
  int64_t total = 0;
};

/// Adapts `config.target_modules` in every layer of the language tower, in each weight's dtype and
/// device, initialised from `seed` alone, and freezes everything else. Throws UserError as
/// validate() does, and for a rank that no projection of this model can use.
AdapterSummary attach_lora(Ministral3& model, const LoraConfig& config, uint64_t seed);

/// Attaches the adapter of a PEFT folder or of a Megatron adapter checkpoint and freezes everything
/// else. Throws UserError when it is neither, does not fit, or asks for what is not supported. On a
/// model on the meta device the adapters lie on the CPU: one form becomes the other without the
/// base's weights.
AdapterSummary load_adapter(Ministral3& model, const std::filesystem::path& path);

/// The config of the adapters that the model has: what a checkpoint of them must state.
LoraConfig lora_config_of(const Ministral3& model);

/// Adds every adapter to its weight, in fp32 rounded once, and removes it. Returns their number.
int64_t merge_adapters(Ministral3& model);

}  // namespace trestle
