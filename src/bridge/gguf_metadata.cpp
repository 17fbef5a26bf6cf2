#include "bridge/gguf_metadata.h"

#include <ATen/core/Tensor.h>

#include "base/error.h"
#include "model/rope.h"

namespace trestle {

namespace {

constexpr double kVisionEps = 1e-5;  // transformers' Pixtral has no other
constexpr double kVisionRopeTheta = 10000;

// llama.cpp scales cos and sin by (1 + 0.1 ln factor) / (1 + 0.1 m ln factor) with m =
// yarn_log_multiplier, by the numerator alone where m is 0, and by attn_factor on top.
void set_yarn(const RopeConfig& rope, int64_t head_dim, GgufMetadata& keys) {
  const YarnConfig& yarn = *rope.yarn;
  if (!yarn.truncate) {
    user_error(
        "rope_parameters.truncate=false: llama.cpp always rounds YaRN's range to whole "
        "dimensions, so a GGUF file would compute something else");
  }
  keys.set_text("mistral3.rope.scaling.type", "yarn");
  keys.set_float("mistral3.rope.scaling.factor", yarn.factor);
  keys.set_float("mistral3.rope.scaling.yarn_beta_fast", yarn.beta_fast);
  keys.set_float("mistral3.rope.scaling.yarn_beta_slow", yarn.beta_slow);
  const double all_dim = yarn.mscale_all_dim.value_or(0);
  if (!yarn.attention_factor && yarn.mscale == 1.0 && all_dim != 0) {
    keys.set_float("mistral3.rope.scaling.yarn_log_multiplier", all_dim);
    return;
  }
  keys.set_float("mistral3.rope.scaling.yarn_log_multiplier", 1);
  keys.set_float("mistral3.rope.scaling.attn_factor",
                 rope_frequencies(rope, head_dim).attention_factor);
}

}  // namespace

int64_t gguf_vision_layers(const ModelConfig& config) {
  const int64_t layer = config.projector.vision_feature_layers.front();
  return layer < 0 ? config.vision->num_layers + 1 + layer : layer;
}

bool gguf_uses(const std::string& hf, const ModelConfig& config) {
  constexpr std::string_view prefix = "vision_tower.transformer.layers.";
  return !hf.starts_with(prefix) ||
         std::stoll(hf.substr(prefix.size())) < gguf_vision_layers(config);
}

GgufMetadata gguf_language_metadata(const TextConfig& text) {
  const RopeConfig& rope = text.rope;
  GgufMetadata keys;
  keys.set_uint32("mistral3.vocab_size", text.vocab_size);
  keys.set_uint32("mistral3.context_length", text.max_position_embeddings);
  keys.set_uint32("mistral3.embedding_length", text.hidden_size);
  keys.set_uint32("mistral3.block_count", text.num_layers);
  keys.set_uint32("mistral3.feed_forward_length", text.intermediate_size);
  keys.set_uint32("mistral3.attention.head_count", text.num_attention_heads);
  keys.set_uint32("mistral3.attention.head_count_kv", text.num_query_groups);
  keys.set_uint32("mistral3.attention.key_length", text.head_dim);
  keys.set_uint32("mistral3.attention.value_length", text.head_dim);
  keys.set_float("mistral3.attention.layer_norm_rms_epsilon", text.rms_norm_eps);
  keys.set_uint32("mistral3.rope.dimension_count", text.head_dim);
  keys.set_float("mistral3.rope.freq_base", rope.theta);
  std::optional<int64_t> original;
  if (rope.yarn) {
    set_yarn(rope, text.head_dim, keys);
    original = rope.yarn->original_max_position_embeddings;
  }
  if (rope.llama_4_scaling_beta) {
    const int64_t scaled = rope.llama_4_original_max_position_embeddings;
    if (original.value_or(scaled) != scaled) {
      user_error(
          "YaRN counts from {} positions but the query scale from {}; llama.cpp has one key "
          "for both",
          *original, scaled);
    }
    original = scaled;
    keys.set_float("mistral3.attention.temperature_scale", *rope.llama_4_scaling_beta);
  }
  if (original) keys.set_uint32("mistral3.rope.scaling.original_context_length", *original);
  return keys;
}

GgufMetadata gguf_vision_metadata(const ModelConfig& config, const GgufAssets& assets) {
  const VisionConfig& vision = *config.vision;
  const ProjectorConfig& projector = config.projector;
  if (vision.rope_theta != kVisionRopeTheta) {
    user_error("vision_config rope_theta={}: llama.cpp's pixtral projector has {} built in",
               vision.rope_theta, kVisionRopeTheta);
  }
  if (config.text.rms_norm_eps != kVisionEps) {
    user_error(
        "text_config.rms_norm_eps={} is that of the projector's norm too, but llama.cpp "
        "takes the vision tower's, {}, there",
        config.text.rms_norm_eps, kVisionEps);
  }
  if (projector.hidden_act != ProjectorConfig::Activation::kGelu) {
    user_error(
        "projector_hidden_act is not gelu, which llama.cpp's pixtral projector has built "
        "in");
  }
  if (gguf_vision_layers(config) < 1) {
    user_error("vision_feature_layer={}: llama.cpp needs one layer of the vision tower at least",
               projector.vision_feature_layers.front());
  }
  if (!assets.image_break_id) {
    user_error(
        "the checkpoint has no tokenizer with [IMG_BREAK], whose embedding mmproj must "
        "hold; name the model's directory with --hf-model");
  }
  GgufMetadata keys;
  keys.set_bool("clip.has_vision_encoder", true);
  keys.set_text("clip.projector_type", "pixtral");
  keys.set_uint32("clip.vision.projection_dim", config.text.hidden_size);
  keys.set_uint32("clip.vision.image_size", vision.image_size);
  keys.set_uint32("clip.vision.patch_size", vision.patch_size);
  keys.set_uint32("clip.vision.embedding_length", vision.hidden_size);
  keys.set_uint32("clip.vision.feed_forward_length", vision.intermediate_size);
  keys.set_uint32("clip.vision.block_count", gguf_vision_layers(config));
  keys.set_uint32("clip.vision.attention.head_count", vision.num_attention_heads);
  keys.set_float("clip.vision.attention.layer_norm_epsilon", kVisionEps);
  keys.set_uint32("clip.vision.spatial_merge_size", projector.spatial_merge_size);
  keys.set_floats("clip.vision.image_mean", assets.image_mean);
  keys.set_floats("clip.vision.image_std", assets.image_std);
  keys.set_bool(
      vision.hidden_act == VisionConfig::Activation::kSilu ? "clip.use_silu" : "clip.use_gelu",
      true);
  return keys;
}

}  // namespace trestle
