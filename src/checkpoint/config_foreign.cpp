#include "checkpoint/config_foreign.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace trestle {

namespace {

// Named as transformers' Gemma, Granite, Cohere, Qwen, OLMo, Mixtral and DeepSeek have them.
constexpr std::array kOffByDefault = {"attn_logit_softcapping",
                                      "final_logit_softcapping",
                                      "query_pre_attn_scalar",
                                      "use_qk_norm",
                                      "qk_norm",
                                      "qk_layernorm",
                                      "use_bidirectional_attention",
                                      "is_encoder_decoder",
                                      "add_cross_attention",
                                      "clip_qkv",
                                      "use_sliding_window",
                                      "attention_chunk_size",
                                      "attn_temperature_tuning",
                                      "no_rope_layers",
                                      "no_rope_layer_interval",
                                      "rope_interleaved",
                                      "alibi",
                                      "parallel_attn",
                                      "use_parallel_residual",
                                      "use_bias",
                                      "qkv_bias",
                                      "num_experts",
                                      "num_local_experts",
                                      "n_routed_experts",
                                      "n_shared_experts",
                                      "num_experts_per_tok",
                                      "num_nextn_predict_layers",
                                      "kv_lora_rank",
                                      "q_lora_rank"};
constexpr std::array kFactors = {
    "logit_scale",          "logits_scaling",     "residual_multiplier", "attention_multiplier",
    "embedding_multiplier", "lm_head_multiplier", "scale_emb",           "rotary_pct"};

constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kMixtures = {
    {{"mistral4", "Mistral Small 4"},
     {"mistral_large4", "Mistral Large 4"},
     {"mistral_large4_text", "Mistral Large 4"},
     {"mixtral", "Mixtral"}}};

}  // namespace

std::optional<std::string_view> mixture_of_experts(std::string_view type) {
  const auto* found =
      std::ranges::find(kMixtures, type, [](const auto& each) { return each.first; });
  return found == kMixtures.end() ? std::nullopt : std::optional(found->second);
}

void refuse_mixtures_of_experts(const ConfigSection& top) {
  const auto refuse = [](const ConfigSection& section) {
    const std::string type = section.text("model_type", "");
    if (const auto name = mixture_of_experts(type)) {
      user_error("{}: {}model_type={} is {}, a mixture of experts; only dense models are supported",
                 section.what(), section.prefix(), type, *name);
    }
  };
  refuse(top);
  if (top.has("text_config")) refuse(top.child("text_config"));
}

void refuse_foreign_keys(const ConfigSection& section) {
  const auto refuse = [&](const char* key, const Json& value) {
    user_error("{}: {}{}={} means another kind of model, which is not supported", section.what(),
               section.prefix(), key, value.dump());
  };
  for (const char* key : kOffByDefault) {
    const Json* value = section.find(key);
    const bool is_empty = value != nullptr && value->is_array() && value->empty();
    if (!is_empty) section.refuse(key);
  }
  for (const char* key : kFactors) {
    const Json* value = section.find(key);
    if (value != nullptr && *value != Json(1.0)) refuse(key, *value);
  }
  if (const Json* causal = section.find("is_causal"); causal != nullptr && *causal != Json(true)) {
    refuse("is_causal", *causal);
  }
  if (const Json* types = section.find("layer_types")) {
    const bool full = types->is_array() && std::ranges::all_of(*types, [](const Json& type) {
                        return type == "full_attention";
                      });
    if (!full) refuse("layer_types", *types);
  }
}

}  // namespace trestle
