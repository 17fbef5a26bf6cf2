#include "checkpoint/hf_config.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "checkpoint/config_foreign.h"
#include "checkpoint/config_section.h"

namespace trestle {

namespace {

// Far above any real model and low enough that products of a few of them stay within 64 bits.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 1 << 12;
constexpr int64_t kMaxHeads = 1 << 14;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 31;

struct TextDefaults {
  int64_t vocab_size;
  int64_t hidden_size = 4096;
  int64_t intermediate_size = 14336;
  int64_t num_hidden_layers;
  int64_t num_attention_heads = 32;
  int64_t num_key_value_heads = 8;
  int64_t max_position_embeddings;
  double rms_norm_eps;
};
constexpr TextDefaults kMinistral3{.vocab_size = 131072,
                                   .num_hidden_layers = 34,
                                   .max_position_embeddings = 262144,
                                   .rms_norm_eps = 1e-5};
constexpr TextDefaults kMistral{.vocab_size = 32000,
                                .num_hidden_layers = 32,
                                .max_position_embeddings = 131072,
                                .rms_norm_eps = 1e-6};

// One value that a file may state in two places.
void require_one(const ConfigSection& first, const char* key, const ConfigSection& second,
                 const char* other) {
  const Json *a = first.find(key), *b = second.find(other);
  if (a == nullptr || b == nullptr || *a == *b) return;
  user_error("{}: {}{}={} and {}{}={} differ; leave one out", first.what(), first.prefix(), key,
             a->dump(), second.prefix(), other, b->dump());
}

// A dictionary of rope's keys, or nullptr where there is none.
const Json* rope_under(const ConfigSection& section, const char* key) {
  const Json* stated = section.find(key);
  if (stated != nullptr && !stated->is_object()) {
    user_error("{}: {}{} is not an object", section.what(), section.prefix(), key);
  }
  return stated;
}

// The keys in one dictionary, whichever of the three ways the file states them: `rope_scaling`
// (old), `rope_parameters` (new), and a `rope_theta` beside either, which fills a gap, as in
// transformers' convert_rope_params_to_dict. That has an order for those that differ; here they are
// refused.
Json gather_rope(const ConfigSection& section, Json fallback) {
  const Json* parameters = rope_under(section, "rope_parameters");
  const Json* scaling = section.has("rope_scaling") && section.find("rope_scaling")->empty()
                            ? nullptr
                            : rope_under(section, "rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling) {
    user_error("{0}: {1}rope_parameters and {1}rope_scaling differ; leave one out", section.what(),
               section.prefix());
  }
  Json rope = std::move(fallback);
  if (parameters != nullptr) rope = *parameters;
  if (scaling != nullptr) rope = *scaling;
  const ConfigSection within(rope, section.what(), section.prefix() + "rope_parameters.");
  require_one(section, "rope_theta", within, "rope_theta");
  require_one(within, "type", within, "rope_type");
  if (!rope.contains("rope_theta")) {
    const Json* theta = section.find("rope_theta");
    rope["rope_theta"] = theta != nullptr ? *theta : Json(10000.0);
  }
  if (!rope.contains("rope_type")) rope["rope_type"] = rope.value("type", Json("default"));
  return rope;
}

YarnConfig parse_yarn(const ConfigSection& rope, const ConfigSection& text, int64_t max_positions) {
  YarnConfig yarn;
  require_one(text, "original_max_position_embeddings", rope, "original_max_position_embeddings");
  // A key of the text config itself comes first (standardize_rope_params).
  yarn.original_max_position_embeddings = text.count(
      "original_max_position_embeddings",
      rope.count("original_max_position_embeddings", max_positions, kMaxPositions), kMaxPositions);
  if (!rope.states("factor")) {
    user_error("{}: {}factor is missing; yarn needs it", rope.what(), rope.prefix());
  }
  yarn.factor =
      rope.positive("factor", static_cast<double>(max_positions) /
                                  static_cast<double>(yarn.original_max_position_embeddings));
  // transformers reads 0 as unset for these four.
  const auto set = [&](const char* key) {
    const auto value = rope.number(key);
    return value && *value != 0 ? value : std::nullopt;
  };
  yarn.beta_fast = set("beta_fast").value_or(32);
  yarn.beta_slow = set("beta_slow").value_or(1);
  yarn.mscale = set("mscale");
  yarn.mscale_all_dim = set("mscale_all_dim");
  yarn.attention_factor = rope.number("attention_factor");
  yarn.truncate = rope.flag("truncate").value_or(true);
  if (yarn.beta_fast <= 0 || yarn.beta_slow <= 0) {
    user_error("{}: {}beta_fast={} and beta_slow={} must be above 0", rope.what(), rope.prefix(),
               yarn.beta_fast, yarn.beta_slow);
  }
  if (yarn.beta_fast < yarn.beta_slow) {
    user_error("{}: {}beta_fast={} is below beta_slow={}; they look swapped", rope.what(),
               rope.prefix(), yarn.beta_fast, yarn.beta_slow);
  }
  return yarn;
}

void refuse_partial_rotation(const ConfigSection& section) {
  const double part = section.number("partial_rotary_factor").value_or(1);
  if (part != 1) {
    user_error("{}: {}partial_rotary_factor={} is not supported; only 1 is", section.what(),
               section.prefix(), part);
  }
}

RopeConfig parse_text_rope(const ConfigSection& text, bool ministral3, int64_t max_positions) {
  Json fallback = Json::object();
  if (ministral3) {
    fallback = {{"rope_type", "yarn"},
                {"rope_theta", 1e6},
                {"factor", 16.0},
                {"original_max_position_embeddings", 16384},
                {"beta_fast", 32.0},
                {"beta_slow", 1.0},
                {"mscale_all_dim", 1.0},
                {"mscale", 1.0},
                {"llama_4_scaling_beta", 0.1}};
  }
  const Json gathered = gather_rope(text, std::move(fallback));
  const ConfigSection rope(gathered, text.what(), text.prefix() + "rope_parameters.");
  // transformers writes max_position_embeddings and never reads it; of other keys it warns and
  // leaves them out, though whoever wrote them meant another model.
  rope.refuse_all_but({"rope_type", "type", "rope_theta", "factor",
                       "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale",
                       "mscale_all_dim", "attention_factor", "truncate", "partial_rotary_factor",
                       "llama_4_scaling_beta", "max_position_embeddings"});
  RopeConfig config;
  config.theta = rope.positive("rope_theta", 10000);
  if (rope.choice<bool>("rope_type", "default", {{"yarn", true}, {"default", false}})) {
    config.yarn = parse_yarn(rope, text, max_positions);
  } else {
    for (const char* key : {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                            "attention_factor", "truncate"}) {
      if (const Json* value = rope.find(key)) {
        user_error("{}: {}{}={} has no effect with rope_type={}; is it yarn?", rope.what(),
                   rope.prefix(), key, value->dump(), "default");
      }
    }
  }
  for (const ConfigSection& section : {rope, text}) refuse_partial_rotation(section);
  if (ministral3) {
    // transformers has no ministral3 without the query scale: it fails there instead of leaving it
    // out.
    config.llama_4_scaling_beta = rope.number("llama_4_scaling_beta");
    if (!config.llama_4_scaling_beta) {
      user_error("{}: {}llama_4_scaling_beta is missing; ministral3 needs it (0 for no scaling)",
                 rope.what(), rope.prefix());
    }
    config.llama_4_original_max_position_embeddings =
        config.yarn ? config.yarn->original_max_position_embeddings
                    : rope.count("original_max_position_embeddings", max_positions, kMaxPositions);
  }
  return config;
}

TextConfig parse_text(const ConfigSection& text) {
  refuse_foreign_keys(text);
  const bool ministral3 =
      text.choice<bool>("model_type", "mistral", {{"ministral3", true}, {"mistral", false}});
  const TextDefaults& defaults = ministral3 ? kMinistral3 : kMistral;
  TextConfig config;
  config.hidden_size = text.count("hidden_size", defaults.hidden_size, kMaxWidth);
  config.intermediate_size =
      text.count("intermediate_size", defaults.intermediate_size, 4 * kMaxWidth);
  config.num_layers = text.count("num_hidden_layers", defaults.num_hidden_layers, kMaxLayers);
  config.num_attention_heads =
      text.count("num_attention_heads", defaults.num_attention_heads, kMaxHeads);
  config.num_query_groups =
      text.count("num_key_value_heads",
                 text.states("num_key_value_heads") ? config.num_attention_heads
                                                    : defaults.num_key_value_heads,
                 kMaxHeads);
  config.vocab_size = text.count("vocab_size", defaults.vocab_size, kMaxVocabulary);
  config.max_position_embeddings =
      text.count("max_position_embeddings", defaults.max_position_embeddings, kMaxPositions);
  config.rms_norm_eps = text.positive("rms_norm_eps", defaults.rms_norm_eps);

  if (config.num_attention_heads % config.num_query_groups != 0) {
    user_error("{}: {}num_attention_heads={} is not a multiple of num_key_value_heads={}",
               text.what(), text.prefix(), config.num_attention_heads, config.num_query_groups);
  }
  const bool fixed_head = ministral3 && !text.states("head_dim");
  config.head_dim = text.count(
      "head_dim", fixed_head ? 128 : config.hidden_size / config.num_attention_heads, kMaxHeads);
  if (config.head_dim == 0 || config.head_dim % 2 != 0) {
    user_error("{}: {}head_dim={} must be even for rope (hidden_size={}, num_attention_heads={})",
               text.what(), text.prefix(), config.head_dim, config.hidden_size,
               config.num_attention_heads);
  }

  text.choice<bool>("hidden_act", "silu", {{"silu", true}, {"swish", true}});
  for (const char* key : {"attention_bias", "mlp_bias", "attention_dropout", "sliding_window"}) {
    text.refuse(key);
  }
  if (!ministral3 && !text.states("sliding_window")) {
    user_error(
        "{}: {}sliding_window is absent, which means 4096 for mistral and is not supported; "
        "set it to null if the model has none",
        text.what(), text.prefix());
  }
  config.rope = parse_text_rope(text, ministral3, config.max_position_embeddings);
  return config;
}

VisionConfig parse_vision(const ConfigSection& vision) {
  using Activation = VisionConfig::Activation;
  vision.choice<bool>("model_type", "pixtral", {{"pixtral", true}});
  VisionConfig config;
  config.hidden_size = vision.count("hidden_size", 1024, kMaxWidth);
  config.intermediate_size = vision.count("intermediate_size", 4096, 4 * kMaxWidth);
  config.num_layers = vision.count("num_hidden_layers", 24, kMaxLayers);
  config.num_attention_heads = vision.count("num_attention_heads", 16, kMaxHeads);
  config.num_channels = vision.count("num_channels", 3, 64);
  config.patch_size = vision.count("patch_size", 16, 1 << 10);
  config.image_size = vision.count("image_size", 1024, 1 << 16);
  config.hidden_act = vision.choice<Activation>(
      "hidden_act", "gelu",
      {{"silu", Activation::kSilu}, {"swish", Activation::kSilu}, {"gelu", Activation::kGelu}});
  for (const char* key : {"attention_dropout", "attention_bias", "window_size"}) vision.refuse(key);

  // Half of a head turns with the rows, half with the columns, each in pairs.
  config.head_dim = config.hidden_size / config.num_attention_heads;
  const int64_t stated = vision.count("head_dim", config.head_dim, kMaxWidth);
  if (config.hidden_size % config.num_attention_heads != 0 || config.head_dim % 4 != 0 ||
      stated != config.head_dim) {
    user_error(
        "{}: {}hidden_size={} and num_attention_heads={} with head_dim={}: head_dim must be their "
        "quotient and a multiple of 4",
        vision.what(), vision.prefix(), config.hidden_size, config.num_attention_heads, stated);
  }

  const Json gathered = gather_rope(vision, Json::object());
  const ConfigSection rope(gathered, vision.what(), vision.prefix() + "rope_parameters.");
  rope.choice<bool>("rope_type", "default", {{"default", true}, {"axial", true}});
  rope.refuse_all_but({"rope_type", "type", "rope_theta", "partial_rotary_factor"});
  for (const ConfigSection& section : {rope, vision}) refuse_partial_rotation(section);
  config.rope_theta = rope.positive("rope_theta", 10000);
  return config;
}

std::vector<int64_t> parse_feature_layers(const ConfigSection& top, int64_t num_layers) {
  const Json* stated = top.find("vision_feature_layer");
  if (stated == nullptr) return {-1};
  const Json list = stated->is_array() ? *stated : Json::array({*stated});
  std::vector<int64_t> layers;
  for (const Json& layer : list) {
    // The embeddings and every layer's output: num_layers + 1 hidden states.
    if (!layer.is_number_integer() || layer.get<int64_t>() < -num_layers - 1 ||
        layer.get<int64_t>() > num_layers) {
      user_error("{}: vision_feature_layer={} must lie from {} to {}", top.what(), layer.dump(),
                 -num_layers - 1, num_layers);
    }
    layers.push_back(layer.get<int64_t>());
  }
  if (layers.empty() || layers.size() > 64) {
    user_error("{}: vision_feature_layer lists {} layers; from 1 to 64 are read", top.what(),
               layers.size());
  }
  return layers;
}

ProjectorConfig parse_projector(const ConfigSection& top, const VisionConfig& vision) {
  using Activation = ProjectorConfig::Activation;
  ProjectorConfig config;
  config.spatial_merge_size = top.count("spatial_merge_size", 2, 64);
  config.bias = top.flag("multimodal_projector_bias").value_or(false);
  config.hidden_act = top.choice<Activation>("projector_hidden_act", "gelu",
                                             {{"gelu", Activation::kGelu},
                                              {"gelu_pytorch_tanh", Activation::kGeluTanh},
                                              {"gelu_new", Activation::kGeluTanh},
                                              {"silu", Activation::kSilu},
                                              {"swish", Activation::kSilu},
                                              {"relu", Activation::kRelu}});
  config.vision_feature_layers = parse_feature_layers(top, vision.num_layers);
  return config;
}

int64_t parse_image_token(const ConfigSection& top, int64_t vocab_size) {
  const int64_t index = top.count("image_token_index", 10, vocab_size - 1, 0);
  const int64_t id = top.count("image_token_id", index, vocab_size - 1, 0);
  if (top.has("image_token_index") && id != index) {
    user_error("{}: image_token_index={} and image_token_id={} differ", top.what(), index, id);
  }
  return id;
}

void check_quantization(const ConfigSection& section) {
  if (!section.has("quantization_config")) return;
  section.child("quantization_config").choice<bool>("quant_method", "(none)", {{"fp8", true}});
}

}  // namespace

ModelConfig parse_hf_config(const Json& json, std::string_view what) {
  const ConfigSection top(json, std::string(what), "");
  if (!top.has("model_type")) user_error("{}: model_type is missing", what);
  refuse_mixtures_of_experts(top);
  const bool multimodal = top.choice<bool>(
      "model_type", "", {{"mistral3", true}, {"ministral3", false}, {"mistral", false}});
  check_quantization(top);
  ModelConfig config;
  if (multimodal) {
    refuse_foreign_keys(top);
    top.refuse("sliding_window");
    const ConfigSection text = top.child("text_config");
    check_quantization(text);
    config.text = parse_text(text);
    config.vision = parse_vision(top.child("vision_config"));
    config.projector = parse_projector(top, *config.vision);
    text.flag("tie_word_embeddings");  // only that it is a flag
    config.image_token_id = parse_image_token(top, config.text.vocab_size);
  } else {
    config.text = parse_text(top);
  }
  top.flag("tie_word_embeddings");
  stated_fp8_block(json, what);
  config.text.tie_word_embeddings = stated_tie(json).value_or(multimodal);
  return config;
}

ModelConfig read_hf_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_hf_config(read_json(path), path.string());
}

std::optional<bool> stated_tie(const Json& config) {
  const auto flag = [](const Json& level) -> std::optional<bool> {
    const auto found = level.find("tie_word_embeddings");
    if (found == level.end() || !found->is_boolean()) return std::nullopt;
    return found->get<bool>();
  };
  const std::optional<bool> top = flag(config);
  const auto text_config = config.find("text_config");
  if (text_config == config.end()) return top.value_or(false);  // one level, its default false
  if (top == false && flag(*text_config) == true) return std::nullopt;
  return top.value_or(true);
}

std::optional<Fp8Block> stated_fp8_block(const Json& config, std::string_view what) {
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || !quantization->is_object()) return std::nullopt;
  const auto size = quantization->find("weight_block_size");
  if (size == quantization->end() || size->is_null()) return std::nullopt;
  const auto is_size = [](const Json& value) {
    return value.is_number_integer() && value.get<int64_t>() > 0 &&
           value.get<int64_t>() <= kMaxWidth;
  };
  if (!size->is_array() || size->size() != 2 || !is_size((*size)[0]) || !is_size((*size)[1])) {
    user_error("{}: quantization_config.weight_block_size={} is not two whole numbers from 1 to {}",
               what, size->dump(), kMaxWidth);
  }
  return Fp8Block{(*size)[0].get<int64_t>(), (*size)[1].get<int64_t>()};
}

Json export_config(Json config, bool tie_word_embeddings, at::ScalarType dtype) {
  const char* name = dtype == at::kBFloat16 ? "bfloat16"
                     : dtype == at::kFloat  ? "float32"
                     : dtype == at::kHalf   ? "float16"
                                            : nullptr;
  TORCH_CHECK(name != nullptr, "no model is exported as ", dtype);
  if (!config.contains("torch_dtype")) config["dtype"] = name;
  config["tie_word_embeddings"] = tie_word_embeddings;
  const auto holds = [&](const char* key) {
    const auto found = config.find(key);
    return found != config.end() && found->is_object();
  };
  if (holds("text_config")) config["text_config"]["tie_word_embeddings"] = tie_word_embeddings;
  const auto settle = [&](Json& level) {
    level.erase("quantization_config");
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (level.contains(key)) level[key] = name;
    }
  };
  settle(config);
  for (const char* key : {"text_config", "vision_config"}) {
    if (holds(key)) settle(config[key]);
  }
  return config;
}

}  // namespace trestle
