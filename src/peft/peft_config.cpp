#include "peft/peft_config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace trestle {

namespace {

// Options that say nothing about what a finished adapter computes, and those that are read below.
constexpr std::array<std::string_view, 24> kKnown = {
    "peft_type",         "task_type",           "auto_mapping",   "base_model_name_or_path",
    "revision",          "peft_version",        "inference_mode", "r",
    "lora_alpha",        "lora_dropout",        "use_rslora",     "target_modules",
    "exclude_modules",   "layers_to_transform", "layers_pattern", "bias",
    "init_lora_weights", "loftq_config",        "eva_config",     "corda_config",
    "lora_ga_config",    "megatron_config",     "megatron_core",  "qalora_group_size"};

// Ways to start that leave the base's weights as they are; the others (pissa, olora, ...) move a
// part of them into the adapter, which then belongs to other weights.
constexpr std::array<std::string_view, 3> kInits = {"gaussian", "eva", "orthogonal"};

bool is_off(const Json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

double number(const Json& json, const char* key, double fallback, std::string_view what) {
  const auto found = json.find(key);
  if (found == json.end()) return fallback;
  if (!found->is_number()) user_error("{}: {} is {}, not a number", what, key, found->dump());
  return found->get<double>();
}

bool is_set(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !is_off(*found);
}

void refuse_unsupported(const Json& json, std::string_view what) {
  if (json.value("peft_type", Json()) != "LORA") {
    user_error("{}: peft_type is {}; only LORA is supported", what,
               json.value("peft_type", Json()).dump());
  }
  if (is_set(json, "use_dora")) user_error("{}: DoRA adapters are not supported yet", what);
  if (const Json bias = json.value("bias", Json("none")); bias != "none") {
    user_error("{}: bias is {}; only \"none\" is supported", what, bias.dump());
  }
  const Json init = json.value("init_lora_weights", Json(true));
  const bool harmless =
      init.is_boolean() ||
      (init.is_string() && std::ranges::find(kInits, init.get<std::string>()) != kInits.end());
  if (!harmless) {
    user_error(
        "{}: init_lora_weights is {}, which changes the base's weights too; convert the "
        "adapter to a plain LoRA with peft first",
        what, init.dump());
  }
  for (const auto& [key, value] : json.items()) {
    if (std::ranges::find(kKnown, key) == kKnown.end() && !is_off(value)) {
      user_error("{}: {} is {}; this option is not supported", what, key, value.dump());
    }
  }
}

std::optional<std::vector<std::string>> read_targets(const Json& json) {
  const auto targets = json.find("target_modules");
  if (targets == json.end() || !targets->is_array() || is_set(json, "exclude_modules") ||
      is_set(json, "layers_to_transform")) {
    return std::nullopt;
  }
  std::vector<std::string> names;
  for (const Json& each : *targets) {
    if (!each.is_string()) return std::nullopt;
    names.push_back(each.get<std::string>());
  }
  return names;
}

}  // namespace

PeftConfig parse_peft_config(const Json& json, std::string_view what) {
  if (!json.is_object()) user_error("{}: not a JSON object", what);
  refuse_unsupported(json, what);
  // The defaults are peft's.
  const double rank = number(json, "r", 8, what);
  const double alpha = number(json, "lora_alpha", 8, what);
  const double dropout = number(json, "lora_dropout", 0, what);
  if (!(rank >= 1 && rank <= 1e6) || rank != std::floor(rank)) {
    user_error("{}: r is {}, no rank", what, rank);
  }
  if (!(dropout >= 0 && dropout < 1)) user_error("{}: lora_dropout is {}", what, dropout);
  PeftConfig config;
  config.numbers.rank = static_cast<int64_t>(rank);
  // alpha / sqrt(r), written as what alpha / r needs for the same.
  config.numbers.alpha = is_set(json, "use_rslora") ? alpha * std::sqrt(rank) : alpha;
  config.numbers.dropout = dropout;
  config.target_modules = read_targets(json);
  return config;
}

Json make_peft_config(const AdapterNumbers& numbers, const std::vector<std::string>& target_modules,
                      const std::string& base_model) {
  Json json = {{"peft_type", "LORA"},
               {"task_type", "CAUSAL_LM"},
               {"base_model_name_or_path", nullptr},
               {"r", numbers.rank},
               {"lora_alpha", numbers.alpha},
               {"lora_dropout", numbers.dropout},
               {"bias", "none"},
               {"use_rslora", false},
               {"use_dora", false},
               {"fan_in_fan_out", false},
               {"init_lora_weights", true},
               {"inference_mode", true},
               {"modules_to_save", nullptr},
               {"rank_pattern", Json::object()},
               {"alpha_pattern", Json::object()},
               {"target_modules", target_modules}};
  if (!base_model.empty()) json["base_model_name_or_path"] = base_model;
  // peft's type for it is int.
  if (numbers.alpha == std::floor(numbers.alpha) && std::abs(numbers.alpha) < 1e15) {
    json["lora_alpha"] = static_cast<int64_t>(numbers.alpha);
  }
  return json;
}

}  // namespace trestle
