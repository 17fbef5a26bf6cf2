#include "peft/megatron_adapter.h"

#include <cmath>
#include <optional>
#include <set>

#include "base/error.h"
#include "checkpoint/config_difference.h"
#include "model/ministral3.h"
#include "parallel/plan.h"
#include "peft/pissa.h"
#include "peft/sites.h"
#include "peft/targets.h"

namespace trestle {

namespace {

constexpr const char* kLoraClass = "megatron.bridge.peft.lora.LoRA";
constexpr const char* kDoraClass = "megatron.bridge.peft.dora.DoRA";
// A LoRA for each part of a fused projection.
constexpr const char* kCanonicalClass = "megatron.bridge.peft.canonical_lora.CanonicalLoRA";

struct Numbers {
  int64_t rank;
  double alpha, dropout;
  /// Nothing where the section names no class: our own form with an A for each part.
  std::optional<bool> dora;
};

double number_in(const Json& peft, const char* key, const std::string& what) {
  const auto found = peft.find(key);
  if (found == peft.end() || !found->is_number()) {
    user_error("{}: peft.{} is missing or no number", what, key);
  }
  return found->get<double>();
}

Numbers read_numbers(const MegatronCheckpoint& checkpoint) {
  const std::string what = (checkpoint.directory() / "run_config.yaml").string();
  const auto peft = checkpoint.run_config().find("peft");
  if (peft == checkpoint.run_config().end() || !peft->is_object()) {
    user_error("{} has no peft section, which would say the adapters' alpha", what);
  }
  std::optional<bool> dora;
  if (const auto target = peft->find("_target_"); target != peft->end()) {
    if (*target != kLoraClass && *target != kDoraClass && *target != kCanonicalClass) {
      user_error("{}: peft is {}; only {}, {} and {} are read", what, target->dump(), kLoraClass,
                 kDoraClass, kCanonicalClass);
    }
    dora = *target == kDoraClass;
  }
  const auto key = [&](const char* name) { return fmt::format("{}: peft.{}", what, name); };
  return {checked_rank(key("dim"), number_in(*peft, "dim", what)),
          checked_alpha(key("alpha"), number_in(*peft, "alpha", what)),
          checked_dropout(key("dropout"), number_in(*peft, "dropout", what)), dora};
}

// The bridge's CanonicalLoRA says adapter.adapter_q where we say adapter.q_proj.
std::string canonical_prefix(const AdapterSite& site, const std::string& part) {
  return fmt::format("{}{}adapter_{}.", site.name, kAdapterPart,
                     part.substr(0, part.find("_proj")));
}

}  // namespace

void load_megatron_adapter(Ministral3& model, const MegatronCheckpoint& checkpoint) {
  const std::string what = checkpoint.directory().string();
  const PlainTensors source(checkpoint);
  const auto& tensors = source.tensors();
  if (!checkpoint.is_adapter()) {
    user_error("{} holds a model's weights, not an adapter; give it as the model", what);
  }
  Numbers numbers = read_numbers(checkpoint);
  if (source.has_pissa()) {
    numbers.rank *= 2;
    numbers.alpha *= 2;
  }

  bool magnitudes = false;
  std::set<std::string> used;
  std::vector<StoredAdapter> adapters;
  const WholeSites whole(model);
  for (const AdapterSite& site : whole.sites) {
    StoredAdapter adapter{site, {}};
    const auto take = [&](const std::string& part) {
      std::string prefix =
          fmt::format("{}{}{}", site.name, kAdapterPart, part.empty() ? "" : part + ".");
      if (!tensors.contains(prefix + "linear_in.weight")) {
        prefix = component_of(site.name) == "lm" ? canonical_prefix(site, part) : site.name + ".";
      }
      StoredPair pair{.a = prefix + "linear_in.weight",
                      .b = prefix + "linear_out.weight",
                      .rank = numbers.rank,
                      .alpha = numbers.alpha};
      if (!tensors.contains(pair.a) || !tensors.contains(pair.b)) return;
      if (const std::string name = prefix + "weight_magnitude"; tensors.contains(name)) {
        pair.magnitude = name;
        used.insert(name);
        magnitudes = true;
      }
      adapter.pairs[part] = pair;
      used.insert({pair.a, pair.b});
    };
    take("");
    if (adapter.pairs.empty()) {
      for (const std::string& part : site.linear->layout().parts()) take(part);
    }
    if (!adapter.pairs.empty()) adapters.push_back(std::move(adapter));
  }
  std::vector<std::string> left_over;
  for (const auto& [name, info] : tensors) {
    if (!used.contains(name)) left_over.push_back(name);
  }
  if (!left_over.empty()) {
    user_error("{}: {} of {} adapter tensors have no place in this model, or no partner: {}", what,
               left_over.size(), tensors.size(), list_some(left_over));
  }
  attach_stored(model, adapters, source, numbers.dropout, numbers.dora.value_or(magnitudes), what);
  require_same_model(checkpoint, model.config(), "the adapter's base");
}

bool is_bridges_form(const LoraConfig& config) {
  // An A for each part of the language model's fused projections is nothing that the bridge's
  // classes can express, nor is PiSSA's changed base, nor DoRA of a plain torch module.
  return !pissa_iterations(config.lora_A_init_method) &&
         std::ranges::all_of(config.target_modules, [&](const std::string& name) {
           if (bridge_target(name).find('*') != std::string::npos) return !config.is_dora();
           return name.starts_with("linear_");
         });
}

std::string bridge_adapter_name(const std::string& name) {
  const bool elsewhere = name.find("vision_tower.") != std::string::npos ||
                         name.find("multi_modal_projector.") != std::string::npos;
  if (!elsewhere || !is_adapter_tensor(name)) return name;
  return std::string(name).erase(name.find(kAdapterPart), kAdapterPart.size() - 1);
}

Json peft_run_config(const LoraConfig& config) {
  const double alpha = config.scaling_alpha();
  Json peft = {{"dim", config.dim},
               {"alpha", alpha},
               {"dropout", config.dropout},
               {"dropout_position", "pre"},
               {"lora_A_init_method", config.lora_A_init_method},
               {"lora_B_init_method", config.lora_B_init_method},
               {"target_modules", Json::array()}};
  for (const std::string& target : config.target_modules) {
    peft["target_modules"].push_back(bridge_target(target));
  }
  if (alpha == std::floor(alpha) && alpha < 1e15) peft["alpha"] = static_cast<int64_t>(alpha);
  if (is_bridges_form(config)) peft["_target_"] = config.is_dora() ? kDoraClass : kLoraClass;
  return peft;
}

}  // namespace trestle
