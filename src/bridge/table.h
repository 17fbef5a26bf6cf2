// The one table between Hugging Face's names and Megatron's. Both directions, and the adapters',
// read it.
#pragma once

#include <string>
#include <vector>

#include "formats/tensor_source.h"
#include "linear/fused.h"
#include "model/config.h"

namespace trestle {

/// One Megatron tensor and the Hugging Face tensors it is made of: one (copied) or several (fused
/// by `layout`).
struct Mapping {
  std::string megatron;
  std::vector<std::string> hf;
  FusedLayout layout;
  /// Shape of the Megatron tensor, as the config demands.
  std::vector<int64_t> shape;

  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  /// Shape of hf[part].
  std::vector<int64_t> hf_shape(size_t part) const;
};

/// Every tensor of a model, in the order of its modules. Hugging Face names are HfCheckpoint's
/// canonical ones.
std::vector<Mapping> mappings(const ModelConfig& config);

/// The Hugging Face module (`model.layers.3.self_attn.q_proj`) or modules that a Megatron module
/// (`language_model.decoder.layers.3.self_attention.linear_qkv`) stands for.
std::vector<std::string> hf_modules(const std::string& megatron_module);

}  // namespace trestle
