#include "checkpoint/mistral_params.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>

#include "base/error.h"
#include "checkpoint/config_section.h"

namespace trestle {

namespace {

// Only against nonsense: parse_hf_config holds every size to tighter limits.
constexpr int64_t kMaxCount = int64_t{1} << 31;
// What transformers' converter takes where the file is silent.
constexpr double kRopeTheta = 1e6;
constexpr int64_t kMaxPositions = 262144;
constexpr int64_t kMaxPositionsWithoutYarn = 131072;
constexpr int64_t kImageToken = 10, kImageBreakToken = 12, kImageEndToken = 13;

constexpr const char* kExtras = "mistral_extras";
constexpr const char* kVision = "vision_encoder";

// A key we do not know may change what the weights mean; null says that there is no such thing.
void refuse_unknown(const Json& object, const ConfigSection& section,
                    std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_null() || std::ranges::find(known, key) != known.end()) continue;
    user_error("{}: {}{}={} is not known; models with it are not supported", section.what(),
               section.prefix(), key, value.dump());
  }
}

// Mixtral, Mistral Large 3, Small 4 and Large 4: told by these keys, as all files say
// "transformer".
void refuse_experts(const ConfigSection& top) {
  const Json* experts = top.find("moe");
  if (experts == nullptr) return;
  user_error(
      "{}: moe={} makes it a mixture of experts, which is not supported; only dense models are",
      top.what(), experts->dump());
}

int64_t required_count(const ConfigSection& section, const char* key) {
  if (!section.has(key)) user_error("{}: {}{} is missing", section.what(), section.prefix(), key);
  return section.count(key, 0, kMaxCount);
}

double required_positive(const ConfigSection& section, const char* key) {
  if (!section.has(key)) user_error("{}: {}{} is missing", section.what(), section.prefix(), key);
  return section.positive(key, 1);
}

void check_quantization(const Json& params, const ConfigSection& top) {
  if (!top.has("quantization")) return;
  const ConfigSection section = top.child("quantization");
  refuse_unknown(params.at("quantization"), section, {"qformat_weight", "qscheme_act"});
  section.choice<bool>("qformat_weight", "(none)", {{"fp8_e4m3", true}});
  // How activations are rounded in FP8 arithmetic; the weights mean the same in both.
  section.choice<bool>("qscheme_act", "TENSOR", {{"TENSOR", true}, {"NO_SCALES", true}});
}

Json yarn_of_params(const Json& params, const ConfigSection& top, bool vision) {
  const ConfigSection yarn = top.child("yarn");
  refuse_unknown(params.at("yarn"), yarn,
                 {"factor", "original_max_position_embeddings", "beta", "alpha", "apply_scale"});
  const int64_t original = required_count(yarn, "original_max_position_embeddings");
  const std::optional<bool> apply_scale = yarn.flag("apply_scale");
  if (!apply_scale && !vision) {
    user_error(
        "{}: yarn.apply_scale is missing, and readers of text-only models differ about what that "
        "means; state true or false",
        top.what());
  }
  double beta = 0;
  if (top.has("llama_4_scaling")) {
    const ConfigSection scaling = top.child("llama_4_scaling");
    refuse_unknown(params.at("llama_4_scaling"), scaling,
                   {"beta", "original_max_position_embeddings"});
    const auto stated = scaling.number("beta");
    if (!stated) user_error("{}: llama_4_scaling.beta is missing", top.what());
    beta = *stated;
    const int64_t scaling_original =
        scaling.count("original_max_position_embeddings", original, kMaxCount);
    if (scaling_original != original) {
      user_error(
          "{}: llama_4_scaling.original_max_position_embeddings={} but yarn's is {}; only equal "
          "ones are supported",
          top.what(), scaling_original, original);
    }
  }
  // Equal mscales leave cos and sin as they are; without the second they are scaled by YaRN's
  // 0.1 ln(factor) + 1.
  return {{"type", "yarn"},
          {"rope_type", "yarn"},
          {"rope_theta", top.positive("rope_theta", kRopeTheta)},
          {"factor", required_positive(yarn, "factor")},
          {"original_max_position_embeddings", original},
          {"beta_fast", required_positive(yarn, "beta")},
          {"beta_slow", required_positive(yarn, "alpha")},
          {"mscale", 1.0},
          {"mscale_all_dim", apply_scale.value_or(false) ? 0.0 : 1.0},
          {"llama_4_scaling_beta", beta}};
}

Json text_of_params(const Json& params, const ConfigSection& top, bool vision) {
  const bool yarn = top.has("yarn");
  if (!yarn && top.has("llama_4_scaling")) {
    user_error("{}: llama_4_scaling without yarn is not supported", top.what());
  }
  const int64_t max_positions = top.count(
      "max_position_embeddings",
      top.count("max_seq_len", yarn ? kMaxPositions : kMaxPositionsWithoutYarn, kMaxCount),
      kMaxCount);
  return {{"attention_dropout", 0.0},
          {"head_dim", required_count(top, "head_dim")},
          {"hidden_act", "silu"},
          {"hidden_size", required_count(top, "dim")},
          {"intermediate_size", required_count(top, "hidden_dim")},
          {"max_position_embeddings", max_positions},
          {"model_type", yarn ? "ministral3" : "mistral"},
          {"num_attention_heads", required_count(top, "n_heads")},
          {"num_hidden_layers", required_count(top, "n_layers")},
          {"num_key_value_heads", required_count(top, "n_kv_heads")},
          {"rms_norm_eps", required_positive(top, "norm_eps")},
          {"rope_parameters", yarn ? yarn_of_params(params, top, vision)
                                   : Json{{"rope_type", "default"},
                                          {"rope_theta", top.positive("rope_theta", kRopeTheta)}}},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", top.flag("tied_embeddings").value_or(false)},
          {"vocab_size", required_count(top, "vocab_size")}};
}

Json vision_of_params(const ConfigSection& vision) {
  const int64_t hidden_size = required_count(vision, "hidden_size");
  const int64_t heads = required_count(vision, "num_attention_heads");
  return {{"attention_dropout", 0.0},
          {"head_dim", hidden_size / heads},
          {"hidden_act", "silu"},
          {"hidden_size", hidden_size},
          {"image_size", required_count(vision, "image_size")},
          {"intermediate_size", required_count(vision, "intermediate_size")},
          {"model_type", "pixtral"},
          {"num_attention_heads", heads},
          {"num_channels", vision.count("num_channels", 3, kMaxCount)},
          {"num_hidden_layers", required_count(vision, "num_hidden_layers")},
          {"patch_size", required_count(vision, "patch_size")},
          {"rope_parameters",
           {{"rope_type", "default"}, {"rope_theta", vision.positive("rope_theta", 10000)}}}};
}

// 16 rather than 16.0, as Mistral's files have it.
Json plain_number(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e9;
  return whole ? Json(static_cast<int64_t>(value)) : Json(value);
}

// Whether YaRN's factor scales cos and sin; `_compute_yarn_parameters` of transformers.
bool applies_scale(const YarnConfig& yarn) {
  if (yarn.attention_factor && *yarn.attention_factor != 1) {
    user_error(
        "params.json cannot state rope_parameters.attention_factor={}; only the models without one "
        "can be written in Mistral's form",
        *yarn.attention_factor);
  }
  if (yarn.attention_factor) return false;
  const double mscale = yarn.mscale.value_or(0), all_dim = yarn.mscale_all_dim.value_or(0);
  if (mscale == 0 || all_dim == 0) return true;
  if (mscale != all_dim) {
    user_error(
        "params.json cannot state rope_parameters.mscale={} with mscale_all_dim={}; only equal "
        "ones "
        "can be written in Mistral's form",
        mscale, all_dim);
  }
  return false;
}

// A whole number of the extras, which come from a file.
int64_t extra(const Json& config_json, const char* key, int64_t fallback) {
  if (!config_json.contains(kExtras)) return fallback;
  const ConfigSection extras(config_json.at(kExtras), "config.json", std::string(kExtras) + ".");
  return extras.has(kVision) ? extras.child(kVision).count(key, fallback, kMaxCount, 0) : fallback;
}

Json vision_params(const ModelConfig& config, const Json& config_json) {
  const VisionConfig& vision = *config.vision;
  const ProjectorConfig& projector = config.projector;
  const auto refuse = [](const char* key, std::string_view only) {
    user_error("params.json cannot state {}; only models with {} can be written in Mistral's form",
               key, only);
  };
  if (vision.hidden_act != VisionConfig::Activation::kSilu) {
    refuse("another vision_config.hidden_act", "silu");
  }
  if (projector.hidden_act != ProjectorConfig::Activation::kGelu) {
    refuse("another projector_hidden_act", "gelu");
  }
  const auto& layers = projector.vision_feature_layers;
  if (layers != std::vector<int64_t>{-1} && layers != std::vector<int64_t>{vision.num_layers}) {
    refuse("another vision_feature_layer", "the last, -1,");
  }
  return {{"image_token_id", config.image_token_id},
          {"image_break_token_id", extra(config_json, "image_break_token_id", kImageBreakToken)},
          {"image_end_token_id", extra(config_json, "image_end_token_id", kImageEndToken)},
          {"intermediate_size", vision.intermediate_size},
          {"num_hidden_layers", vision.num_layers},
          {"num_attention_heads", vision.num_attention_heads},
          {"mm_projector_id", "patch_merge"},
          {"spatial_merge_size", projector.spatial_merge_size},
          {"hidden_size", vision.hidden_size},
          {"num_channels", vision.num_channels},
          {"image_size", vision.image_size},
          {"max_image_size", extra(config_json, "max_image_size", vision.image_size)},
          {"patch_size", vision.patch_size},
          {"rope_theta", vision.rope_theta},
          {"add_pre_mm_projector_layer_norm", true},
          {"adapter_bias", projector.bias}};
}

}  // namespace

Json config_of_params(const Json& params, std::string_view what) {
  const ConfigSection top(params, std::string(what), "");
  refuse_experts(top);
  for (const char* key : {"sliding_window", "_sliding_window", "use_biases"}) top.refuse(key);
  refuse_unknown(params, top,
                 {"dim",
                  "n_layers",
                  "head_dim",
                  "hidden_dim",
                  "n_heads",
                  "n_kv_heads",
                  "norm_eps",
                  "vocab_size",
                  "rope_theta",
                  "tied_embeddings",
                  "yarn",
                  "quantization",
                  "llama_4_scaling",
                  "max_seq_len",
                  "max_position_embeddings",
                  "model_type",
                  "activation",
                  "max_batch_size",
                  "_sliding_window",
                  "sliding_window",
                  "use_biases",
                  "causal",
                  kVision});
  top.choice<bool>("model_type", "transformer", {{"transformer", true}});
  top.choice<bool>("activation", "silu", {{"silu", true}});
  if (top.flag("causal") == false) user_error("{}: causal=false is not supported", what);
  check_quantization(params, top);

  const bool multimodal = top.has(kVision);
  Json text = text_of_params(params, top, multimodal);
  const bool yarn = top.has("yarn");
  if (!multimodal) {
    Json config = {
        {"architectures", Json::array({yarn ? "Ministral3ForCausalLM" : "MistralForCausalLM"})}};
    config.update(text);
    return config;
  }
  const ConfigSection vision = top.child(kVision);
  refuse_unknown(
      params.at(kVision), vision,
      {"image_token_id", "image_break_token_id", "image_end_token_id", "intermediate_size",
       "num_hidden_layers", "num_attention_heads", "mm_projector_id", "spatial_merge_size",
       "hidden_size", "num_channels", "image_size", "max_image_size", "patch_size", "rope_theta",
       "add_pre_mm_projector_layer_norm", "adapter_bias"});
  vision.choice<bool>("mm_projector_id", "(none)", {{"patch_merge", true}});
  if (!vision.flag("add_pre_mm_projector_layer_norm").value_or(false)) {
    user_error(
        "{}: vision_encoder.add_pre_mm_projector_layer_norm is not true; projectors without that "
        "norm are not supported",
        what);
  }
  const int64_t image_size = required_count(vision, "image_size");
  const auto id = [&](const char* key, int64_t fallback) {
    return vision.count(key, fallback, kMaxCount, 0);
  };
  const bool tied = text.at("tie_word_embeddings").get<bool>();
  return {{"architectures", Json::array({"Mistral3ForConditionalGeneration"})},
          {"image_token_index", id("image_token_id", kImageToken)},
          {kExtras,
           {{kVision,
             {{"max_image_size", vision.count("max_image_size", image_size, kMaxCount)},
              {"image_break_token_id", id("image_break_token_id", kImageBreakToken)},
              {"image_end_token_id", id("image_end_token_id", kImageEndToken)}}}}},
          {"model_type", "mistral3"},
          {"multimodal_projector_bias", vision.flag("adapter_bias").value_or(false)},
          {"projector_hidden_act", "gelu"},
          {"spatial_merge_size", required_count(vision, "spatial_merge_size")},
          {"text_config", std::move(text)},
          {"tie_word_embeddings", tied},
          {"vision_config", vision_of_params(vision)},
          {"vision_feature_layer", -1}};
}

Json params_of_config(const ModelConfig& config, const Json& config_json) {
  const TextConfig& text = config.text;
  Json params = {{"dim", text.hidden_size},
                 {"n_layers", text.num_layers},
                 {"head_dim", text.head_dim},
                 {"hidden_dim", text.intermediate_size},
                 {"n_heads", text.num_attention_heads},
                 {"n_kv_heads", text.num_query_groups},
                 {"rope_theta", text.rope.theta},
                 {"norm_eps", text.rms_norm_eps},
                 {"vocab_size", text.vocab_size},
                 {"tied_embeddings", text.tie_word_embeddings},
                 {"max_position_embeddings", text.max_position_embeddings}};
  const double beta = text.rope.llama_4_scaling_beta.value_or(0);
  if (const auto& yarn = text.rope.yarn) {
    if (!yarn->truncate) {
      user_error(
          "params.json cannot state rope_parameters.truncate=false; only models without it can be "
          "written in Mistral's form");
    }
    if (beta != 0) {
      params["llama_4_scaling"] = {
          {"original_max_position_embeddings", text.rope.llama_4_original_max_position_embeddings},
          {"beta", beta}};
    }
    params["yarn"] = {{"original_max_position_embeddings", yarn->original_max_position_embeddings},
                      {"factor", plain_number(yarn->factor)},
                      {"apply_scale", applies_scale(*yarn)},
                      {"beta", plain_number(yarn->beta_fast)},
                      {"alpha", plain_number(yarn->beta_slow)}};
  } else if (beta != 0) {
    user_error(
        "params.json cannot state llama_4_scaling_beta={} without YaRN; only models with both can "
        "be "
        "written in Mistral's form",
        beta);
  }
  if (config.vision) params[kVision] = vision_params(config, config_json);
  return params;
}

}  // namespace trestle
