#include "peft/megatron_adapter.h"

#include <cmath>
#include <set>

#include "base/error.h"
#include "peft/sites.h"

namespace trestle {

namespace {

constexpr const char* kLoraClass = "megatron.bridge.peft.lora.LoRA";

double number_in(const Json& peft, const char* key, const std::string& what) {
  const auto found = peft.find(key);
  if (found == peft.end() || !found->is_number()) {
    user_error("{}: peft.{} is missing or no number", what, key);
  }
  return found->get<double>();
}

AdapterNumbers read_numbers(const MegatronCheckpoint& checkpoint) {
  const std::string what = (checkpoint.directory() / "run_config.yaml").string();
  const auto peft = checkpoint.run_config().find("peft");
  if (peft == checkpoint.run_config().end() || !peft->is_object()) {
    user_error("{} has no peft section, which would say the adapters' alpha", what);
  }
  if (const auto target = peft->find("_target_"); target != peft->end() && *target != kLoraClass) {
    user_error("{}: peft is {}; only {} is read", what, target->dump(), kLoraClass);
  }
  const double dim = number_in(*peft, "dim", what);
  const double alpha = number_in(*peft, "alpha", what);
  const double dropout = number_in(*peft, "dropout", what);
  if (!(dim >= 1 && dim <= 1e6) || dim != std::floor(dim) || !std::isfinite(alpha) ||
      !(dropout >= 0 && dropout < 1)) {
    user_error("{}: peft has dim {}, alpha {} and dropout {}, which no adapter can have", what, dim,
               alpha, dropout);
  }
  return {static_cast<int64_t>(dim), alpha, dropout};
}

}  // namespace

void load_megatron_adapter(Ministral3& model, const MegatronCheckpoint& checkpoint) {
  const std::string what = checkpoint.directory().string();
  const auto& tensors = checkpoint.tensors();
  if (!checkpoint.is_adapter()) {
    user_error("{} holds a model's weights, not an adapter; give it as the model", what);
  }
  for (const auto& [name, info] : tensors) {
    if (name.ends_with(".weight_magnitude")) {
      user_error("{} has {}: DoRA adapters are not supported yet", what, name);
    }
  }
  const AdapterNumbers numbers = read_numbers(checkpoint);

  std::set<std::string> used;
  std::vector<StoredAdapter> adapters;
  for (const AdapterSite& site : adapter_sites(model)) {
    StoredAdapter adapter{site, {}};
    const auto take = [&](const std::string& part) {
      const std::string prefix = site.name + ".adapter." + (part.empty() ? "" : part + ".");
      const StoredPair pair{prefix + "linear_in.weight", prefix + "linear_out.weight"};
      if (!tensors.contains(pair.a) || !tensors.contains(pair.b)) return;
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
  attach_stored(model, adapters, checkpoint, numbers, what);
}

Json peft_run_config(const LoraConfig& config) {
  const double alpha = config.scale() * static_cast<double>(config.dim);
  Json peft = {{"dim", config.dim},
               {"alpha", alpha},
               {"dropout", config.dropout},
               {"dropout_position", "pre"},
               {"lora_A_init_method", config.lora_A_init_method},
               {"lora_B_init_method", config.lora_B_init_method},
               {"target_modules", config.target_modules}};
  if (alpha == std::floor(alpha) && alpha < 1e15) peft["alpha"] = static_cast<int64_t>(alpha);
  // An A for each part is nothing that the bridge's LoRA can express, so its class is not claimed.
  const bool fused = std::ranges::all_of(
      config.target_modules, [](const std::string& name) { return name.starts_with("linear_"); });
  if (fused) peft["_target_"] = kLoraClass;
  return peft;
}

}  // namespace trestle
