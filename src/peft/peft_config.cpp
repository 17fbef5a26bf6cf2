#include "peft/peft_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>

#include "base/error.h"
#include "checkpoint/hf_layout.h"
#include "peft/lora.h"

namespace trestle {

namespace {

// Options that say nothing about what a finished adapter computes.
constexpr std::array<std::string_view, 14> kNeutral = {
    "task_type",         "auto_mapping",       "base_model_name_or_path",
    "revision",          "peft_version",       "inference_mode",
    "loftq_config",      "eva_config",         "corda_config",
    "lora_ga_config",    "megatron_config",    "megatron_core",
    "qalora_group_size", "ensure_weight_tying"};

// Options that are read or refused by their values.
constexpr std::array<std::string_view, 14> kRead = {"peft_type",      "r",
                                                    "lora_alpha",     "lora_dropout",
                                                    "use_rslora",     "use_dora",
                                                    "rank_pattern",   "alpha_pattern",
                                                    "target_modules", "exclude_modules",
                                                    "layers_pattern", "layers_to_transform",
                                                    "bias",           "init_lora_weights"};

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

bool flag(const Json& json, const char* key, std::string_view what) {
  const Json value = json.value(key, Json());
  if (value.is_null()) return false;
  if (!value.is_boolean()) {
    user_error("{}: {} is {}, neither true nor false", what, key, value.dump());
  }
  return value.get<bool>();
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

using Pattern = std::vector<std::pair<std::string, double>>;

bool is_name(std::string_view key) {
  constexpr std::string_view kName =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
  return key.find_first_not_of(kName, key.starts_with('^') ? 1 : 0) == std::string_view::npos;
}

// rank_pattern or alpha_pattern. Keys are regular expressions to peft; names are read, with or
// without the "^" of a whole name.
template <class Check>
Pattern read_pattern(const Json& json, const char* key, std::string_view what, Check check) {
  if (!is_set(json, key)) return {};
  const Json& stated = json.at(key);
  if (!stated.is_object()) user_error("{}: {} is no object", what, key);
  Pattern pattern;
  for (const auto& [module, value] : stated.items()) {
    const std::string place = fmt::format("{}: {}.{}", what, key, module);
    if (!value.is_number()) user_error("{} is {}", place, value.dump());
    pattern.emplace_back(module, static_cast<double>(check(place, value.template get<double>())));
  }
  return pattern;
}

Pattern read_alphas(const Json& json, std::string_view what) {
  Pattern alphas = read_pattern(json, "alpha_pattern", what, checked_alpha);
  for (const auto& [key, value] : alphas) {
    if (is_name(key)) continue;
    user_error("{}: alpha_pattern has {}, a regular expression; only module names are read", what,
               key);
  }
  return alphas;
}

std::optional<Pattern> read_ranks(const Json& json, std::string_view what) {
  Pattern ranks = read_pattern(json, "rank_pattern", what, checked_rank);
  const bool all = std::ranges::all_of(ranks, [](const auto& each) { return is_name(each.first); });
  return all ? std::optional(std::move(ranks)) : std::nullopt;
}

const double* find(const Pattern& pattern, const std::string& module) {
  const auto found = std::ranges::find_if(pattern, [&](const auto& each) {
    const std::string& key = each.first;
    return key.starts_with('^') ? canonical_name(key.substr(1)) == module
                                : names_module(key, module);
  });
  return found == pattern.end() ? nullptr : &found->second;
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

// A list of strings or of whole numbers; nothing where the key is not set or is something else.
template <class Value>
std::optional<std::vector<Value>> read_list(const Json& json, const char* key) {
  if (!is_set(json, key) || !json.at(key).is_array()) return std::nullopt;
  std::vector<Value> values;
  for (const Json& each : json.at(key)) {
    if (std::is_same_v<Value, std::string> ? !each.is_string() : !each.is_number_integer()) {
      return std::nullopt;
    }
    values.push_back(each.template get<Value>());
  }
  return values;
}

// A text is a regular expression to peft, a list has names.
void require_text_or_names(const Json& json, const char* key, std::string_view what) {
  if (!is_set(json, key)) return;
  const Json& stated = json.at(key);
  const bool names = stated.is_array() && std::ranges::all_of(stated, &Json::is_string);
  if (!names && !stated.is_string()) {
    user_error("{}: {} is {}, neither a text nor a list of names", what, key, stated.dump());
  }
}

PeftTargets read_targets(const Json& json, std::string_view what) {
  for (const char* key : {"target_modules", "exclude_modules", "layers_pattern"}) {
    require_text_or_names(json, key, what);
  }
  PeftTargets targets;
  targets.named = read_list<std::string>(json, "target_modules");
  const auto excluded = read_list<std::string>(json, "exclude_modules");
  targets.excluded = excluded.value_or(std::vector<std::string>());
  const auto text_of = [&](const char* key) -> std::optional<std::string> {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) return std::nullopt;
    return found->get<std::string>();
  };
  targets.pattern = text_of("target_modules");
  targets.excluded_pattern = text_of("exclude_modules");
  const Json pattern = json.value("layers_pattern", Json());
  const bool other_layers =
      is_set(json, "layers_pattern") && pattern != "layers" && pattern != Json::array({"layers"});
  if (is_set(json, "layers_to_transform")) {
    const Json& layers = json.at("layers_to_transform");
    std::optional<std::vector<int64_t>> list = read_list<int64_t>(json, "layers_to_transform");
    if (layers.is_number_integer()) list = {layers.get<int64_t>()};
    if (!list) {
      user_error("{}: layers_to_transform is {}, no list of layers", what, layers.dump());
    }
    if (!other_layers) targets.layers = std::move(list);
  }
  targets.exact = targets.named && !other_layers && (excluded || !is_set(json, "exclude_modules"));
  return targets;
}

// The last number among the components, as peft takes it: model.layers.3.mlp.up_proj -> 3.
std::optional<int64_t> layer_of(const std::string& module) {
  std::optional<int64_t> layer;
  for (size_t start = 0; start < module.size();) {
    const size_t end = std::min(module.find('.', start), module.size());
    int64_t number = 0;
    const auto [stop, error] = std::from_chars(&module[start], module.data() + end, number);
    if (error == std::errc() && stop == module.data() + end && end < module.size()) layer = number;
    start = end + 1;
  }
  return layer;
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
  config.rslora = flag(json, "use_rslora", what);
  config.dora = flag(json, "use_dora", what);
  config.ranks = read_ranks(json, what);
  config.alphas = read_alphas(json, what);
  config.targets = read_targets(json, what);
  return config;
}

bool names_module(const std::string& name, const std::string& module) {
  const std::string canonical = canonical_name(name);
  return module == canonical || module.ends_with("." + canonical);
}

bool PeftTargets::allow(const std::string& module) const {
  const auto names = [&](const std::string& name) { return names_module(name, module); };
  if (named && std::ranges::none_of(*named, names)) return false;
  if (std::ranges::any_of(excluded, names)) return false;
  const std::optional<int64_t> layer = layer_of(module);
  return !layers || (layer && std::ranges::find(*layers, *layer) != layers->end());
}

std::optional<int64_t> PeftConfig::rank_of(const std::string& module) const {
  if (!ranks) return std::nullopt;
  const double* own = find(*ranks, module);
  return own == nullptr ? rank : static_cast<int64_t>(*own);
}

double PeftConfig::scaling_alpha(const std::string& module, int64_t module_rank) const {
  const double* own = find(alphas, module);
  const double value = own == nullptr ? alpha : *own;
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
