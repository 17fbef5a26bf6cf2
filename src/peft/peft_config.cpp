#include "peft/peft_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "checkpoint/hf_checkpoint.h"
#include "peft/lora.h"

namespace trestle {

namespace {

// Options that say nothing about what a finished adapter computes.
constexpr std::array<std::string_view, 15> kNeutral = {
    "task_type",     "auto_mapping",      "base_model_name_or_path", "revision",
    "peft_version",  "inference_mode",    "layers_pattern",          "loftq_config",
    "eva_config",    "corda_config",      "lora_ga_config",          "megatron_config",
    "megatron_core", "qalora_group_size", "ensure_weight_tying"};

// Options that are read or refused by their values.
constexpr std::array<std::string_view, 13> kRead = {"peft_type",           "r",
                                                    "lora_alpha",          "lora_dropout",
                                                    "use_rslora",          "use_dora",
                                                    "rank_pattern",        "alpha_pattern",
                                                    "target_modules",      "exclude_modules",
                                                    "layers_to_transform", "bias",
                                                    "init_lora_weights"};

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
    const bool known = std::ranges::count(kNeutral, key) + std::ranges::count(kRead, key) > 0;
    if (!known && !is_off(value)) {
      user_error("{}: {} is {}; this option is not supported", what, key, value.dump());
    }
  }
}

// Keys are regular expressions to peft. Names are read, with or without the "^" of a whole name; a
// real expression is refused.
std::vector<std::pair<std::string, double>> read_alphas(const Json& json, std::string_view what) {
  const auto pattern = json.find("alpha_pattern");
  if (pattern == json.end() || is_off(*pattern)) return {};
  if (!pattern->is_object()) user_error("{}: alpha_pattern is no object", what);
  constexpr std::string_view kName =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
  std::vector<std::pair<std::string, double>> alphas;
  for (const auto& [key, value] : pattern->items()) {
    const size_t start = key.starts_with('^') ? 1 : 0;
    if (key.find_first_not_of(kName, start) != std::string::npos) {
      user_error("{}: alpha_pattern has {}, a regular expression; only module names are read", what,
                 key);
    }
    if (!value.is_number()) user_error("{}: alpha_pattern.{} is {}", what, key, value.dump());
    alphas.emplace_back(
        key, checked_alpha(fmt::format("{}: alpha_pattern.{}", what, key), value.get<double>()));
  }
  return alphas;
}

// A tensor says its own rank; what the file says of it must be one all the same.
void check_ranks(const Json& pattern, std::string_view what) {
  if (!pattern.is_object()) user_error("{}: rank_pattern is no object", what);
  for (const auto& [key, value] : pattern.items()) {
    if (!value.is_number()) user_error("{}: rank_pattern.{} is {}", what, key, value.dump());
    checked_rank(fmt::format("{}: rank_pattern.{}", what, key), value.get<double>());
  }
}

template <class Number>
Number most_common(const std::vector<PeftModule>& modules, Number PeftModule::*member) {
  std::map<Number, int64_t> counts;
  for (const PeftModule& module : modules) ++counts[module.*member];
  return std::ranges::max_element(counts, {}, [](const auto& each) { return each.second; })->first;
}

void put_number(Json& json, const std::string& key, double value) {
  // peft's type for alpha is int.
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    json[key] = static_cast<int64_t>(value);
  } else {
    json[key] = value;
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
  PeftConfig config;
  config.rank = checked_rank(fmt::format("{}: r", what), number(json, "r", 8, what));
  config.alpha =
      checked_alpha(fmt::format("{}: lora_alpha", what), number(json, "lora_alpha", 8, what));
  config.dropout =
      checked_dropout(fmt::format("{}: lora_dropout", what), number(json, "lora_dropout", 0, what));
  config.rslora = is_set(json, "use_rslora");
  config.dora = is_set(json, "use_dora");
  config.ranks_differ = is_set(json, "rank_pattern");
  if (config.ranks_differ) check_ranks(json["rank_pattern"], what);
  config.alphas = read_alphas(json, what);
  config.target_modules = read_targets(json);
  return config;
}

bool names_module(const std::string& name, const std::string& module) {
  const std::string canonical = canonical_name(name);
  return module == canonical || module.ends_with("." + canonical);
}

double PeftConfig::scaling_alpha(const std::string& module, int64_t module_rank) const {
  const auto own = std::ranges::find_if(alphas, [&](const auto& each) {
    const std::string& key = each.first;
    return key.starts_with('^') ? canonical_name(key.substr(1)) == module
                                : names_module(key, module);
  });
  const double value = own == alphas.end() ? alpha : own->second;
  return rslora ? value * std::sqrt(static_cast<double>(module_rank)) : value;
}

Json make_peft_config(const std::vector<PeftModule>& modules, double dropout, bool dora,
                      const std::string& base_model) {
  const int64_t most_rank = most_common(modules, &PeftModule::rank);
  const double most_alpha = most_common(modules, &PeftModule::alpha);
  Json names = Json::array(), ranks = Json::object(), alphas = Json::object();
  for (const PeftModule& module : modules) {
    names.push_back(module.name);
    if (module.rank != most_rank) ranks[module.name] = module.rank;
    if (module.alpha != most_alpha) put_number(alphas, module.name, module.alpha);
  }
  Json json = {{"peft_type", "LORA"},
               {"task_type", "CAUSAL_LM"},
               {"base_model_name_or_path", nullptr},
               {"r", most_rank},
               {"lora_dropout", dropout},
               {"bias", "none"},
               {"use_rslora", false},
               {"use_dora", dora},
               {"fan_in_fan_out", false},
               {"init_lora_weights", true},
               {"inference_mode", true},
               {"modules_to_save", nullptr},
               {"rank_pattern", ranks},
               {"alpha_pattern", alphas},
               {"target_modules", names}};
  put_number(json, "lora_alpha", most_alpha);
  if (!base_model.empty()) json["base_model_name_or_path"] = base_model;
  return json;
}

}  // namespace trestle
