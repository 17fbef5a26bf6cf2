// What a checkpoint's config.json says about the architecture, and nothing that could be derived
// from it. Filled by checkpoint/hf_config.cpp; read by every module of the model and by the bridge.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "parallel/topology.h"

namespace trestle {

/// YaRN as transformers' `_compute_yarn_parameters` names it.
struct YarnConfig {
  double factor = 1;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> attention_factor;
  bool truncate = true;
};

struct RopeConfig {
  double theta = 10000;
  std::optional<YarnConfig> yarn;
  /// Query scale 1 + beta * ln(1 + floor(position / original_max)); absent in `mistral` text
  /// configs.
  std::optional<double> llama_4_scaling_beta;
  int64_t llama_4_original_max_position_embeddings = 0;
};

struct TextConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_query_groups = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = false;
  RopeConfig rope;
};

struct VisionConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t head_dim = 0;
  int64_t num_channels = 3;
  /// Pixels: the side of a patch and of the largest image.
  int64_t patch_size = 14;
  int64_t image_size = 1540;
  double rope_theta = 10000;
  enum class Activation { kSilu, kGelu } hidden_act = Activation::kSilu;
};

struct ProjectorConfig {
  int64_t spatial_merge_size = 2;
  bool bias = false;
  enum class Activation { kGelu, kGeluTanh, kSilu, kRelu } hidden_act = Activation::kGelu;
  /// Which hidden states of the tower feed the projector, -1 the last; several are concatenated.
  std::vector<int64_t> vision_feature_layers = {-1};
};

struct ModelConfig {
  TextConfig text;
  /// Absent for text-only checkpoints (`Ministral3ForCausalLM`).
  std::optional<VisionConfig> vision;
  ProjectorConfig projector;
  /// The id whose positions receive image features.
  int64_t image_token_id = 10;
};

/// What of it bounds how ranks share the model out.
ShardedSizes sharded_sizes(const TextConfig& text);

}  // namespace trestle
