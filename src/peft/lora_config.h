// What adapters are to be: the `peft` group of a run's config. Called by recipes, lora and the
// readers and writers of adapters.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/fields.h"

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
  double lora_plus_ratio = 1;
  std::string base_bits = "auto";
  std::string adapter_path;
  bool shard_base = false;

  bool starts_with_pissa() const;
  /// base_bits, in a form of which only adapters train.
  bool has_held_base() const { return base_bits != "auto" && base_bits != "16"; }
  bool is_dora() const { return scheme == "dora"; }
  /// The alpha of which alpha / dim is the scale of B A: with use_rslora alpha * sqrt(dim)
  /// (Kalajdzievski 2023).
  double scaling_alpha() const;
  /// Throws UserError for a scheme, target or method that does not exist and for numbers out of
  /// range; needs no model.
  void validate() const;

  static constexpr auto fields() {
    return std::tuple(
        field("scheme", &LoraConfig::scheme, OnResume::kSame, OneOf("", "lora", "dora"),
              "lora, dora, or empty to train the weights themselves"),
        field("dim", &LoraConfig::dim, OnResume::kSame, between(1, 1e6), "rank of the adapters"),
        field("alpha", &LoraConfig::alpha, OnResume::kSame, above(0, 1e9),
              "adapters are scaled by alpha / dim"),
        field("dropout", &LoraConfig::dropout, OnResume::kSame, below(0, 1),
              "on the adapters' input, in training"),
        field(
            "target_modules", &LoraConfig::target_modules, OnResume::kSame,
            "linear_qkv, linear_proj, linear_fc1, linear_fc2 (one A for the parts of a fused "
            "projection) or q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj (an A "
            "each) of the language model; with lm., vision. or projector. before it of that part: "
            "vision.q_proj, vision.*, projector.linear_1"),
        field(
            "lora_A_init_method", &LoraConfig::lora_A_init_method, OnResume::kSame,
            "xavier, kaiming, normal, zero, gaussian (deviation 1 / dim), pissa or pissa_niter_N"),
        field("lora_B_init_method", &LoraConfig::lora_B_init_method, OnResume::kSame,
              "xavier, kaiming, normal or zero"),
        field("use_rslora", &LoraConfig::use_rslora, OnResume::kSame,
              "scale by alpha / sqrt(dim) instead"),
        field("lora_plus_ratio", &LoraConfig::lora_plus_ratio, OnResume::kFree, above(0, 1e6),
              "learning rate of B and of magnitudes over that of A (LoRA+)"),
        field("base_bits", &LoraConfig::base_bits, OnResume::kSame,
              OneOf("auto", "fp8", "4", "8", "16"),
              "of the base's projections in memory: 16 (as params_dtype), 8, 4 (QLoRA's NF4), or "
              "fp8 (those that the checkpoint has so, as they are); auto is fp8 under adapters "
              "where there are such, but for pissa, else 16"),
        field("adapter_path", &LoraConfig::adapter_path, OnResume::kSameContent,
              "start from this adapter; it says dim, alpha and targets"),
        field("shard_base", &LoraConfig::shard_base, OnResume::kFree,
              "of several ranks with the same frozen weights each keeps a part of the decoder "
              "layers and gathers one at a time"));
  }
};

/// Throws UserError, `key` first, for a number that no adapter has: what the fields of LoraConfig
/// allow holds wherever an adapter says its own.
int64_t checked_rank(const std::string& key, double rank);
double checked_alpha(const std::string& key, double alpha);
double checked_dropout(const std::string& key, double dropout);

}  // namespace trestle
