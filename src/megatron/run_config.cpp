#include "megatron/run_config.h"

#include <string>
#include <string_view>

#include "pytorch/torch_dtype.h"

namespace trestle {

namespace {

// {_target_: torch.bfloat16, _call_: false} is the thing itself; its last component says enough.
Json reference(std::string_view target) { return {{"_target_", target}, {"_call_", false}}; }

std::string last_component(const std::string& dotted) {
  return dotted.substr(dotted.rfind('.') + 1);
}

// Replaces references and enums by their names and drops `_target_` of nested configs.
Json plain(const Json& value) {
  if (value.is_array()) {
    Json out = Json::array();
    for (const Json& item : value) out.push_back(plain(item));
    return out;
  }
  if (!value.is_object()) return value;
  if (const auto name = value.find("_name_"); name != value.end()) return *name;
  const auto target = value.find("_target_");
  const auto call = value.find("_call_");
  if (target != value.end() && target->is_string() && call != value.end() && *call == false) {
    return last_component(target->get<std::string>());
  }
  Json out = Json::object();
  for (const auto& [key, item] : value.items()) {
    if (key != "_target_" && key != "_call_" && key != "_args_" && key != "_partial_") {
      out[key] = plain(item);
    }
  }
  return out;
}

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

// transformers.models.mistral3.configuration_mistral3.Mistral3Config -> mistral3
std::string model_type_of(const std::string& target) {
  constexpr std::string_view kPrefix = "transformers.models.";
  if (!target.starts_with(kPrefix)) return "";
  const std::string rest = target.substr(kPrefix.size());
  return rest.substr(0, rest.find('.'));
}

std::string config_class_of(const std::string& model_type) {
  std::string name = model_type;
  if (!name.empty() && name[0] >= 'a' && name[0] <= 'z') name[0] += 'A' - 'a';
  return "transformers.models." + model_type + ".configuration_" + model_type + "." + name +
         "Config";
}

// The provider's class defaults suit one model only, so what config.json says is spelled out.
void add_rope(Json& model, const RopeConfig& rope) {
  model["rotary_base"] = rope.theta;
  if (!rope.yarn) {
    model["position_embedding_type"] = "rope";
    return;
  }
  model["position_embedding_type"] = "yarn";
  model["yarn_rotary_scaling_factor"] = rope.yarn->factor;
  model["yarn_original_max_position_embeddings"] = rope.yarn->original_max_position_embeddings;
  model["yarn_beta_fast"] = rope.yarn->beta_fast;
  model["yarn_beta_slow"] = rope.yarn->beta_slow;
  if (rope.yarn->mscale) model["yarn_mscale"] = *rope.yarn->mscale;
  if (rope.yarn->mscale_all_dim) model["yarn_mscale_all_dim"] = *rope.yarn->mscale_all_dim;
  model["yarn_correction_range_round_to_int"] = rope.yarn->truncate;
}

}  // namespace

std::optional<Json> hf_config_of_run_config(const Json& run_config) {
  const Json* model = find(run_config, "model");
  const Json* hf_config = model ? find(*model, "hf_config") : nullptr;
  if (!hf_config || !hf_config->is_object()) return std::nullopt;
  Json out = plain(*hf_config);
  if (!out.is_object()) return std::nullopt;  // a name where the config should be
  const Json* target = find(*hf_config, "_target_");
  if (!out.contains("model_type") && target && target->is_string()) {
    out["model_type"] = model_type_of(target->get<std::string>());
  }
  const Json* dtype = find(*model, "params_dtype");
  if (!out.contains("dtype") && dtype) out["dtype"] = plain(*dtype);
  return out;
}

Json make_run_config(const Json& hf_config, const ModelConfig& config, at::ScalarType dtype,
                     bool has_optimizer, bool per_layer_keys) {
  const TextConfig& text = config.text;
  Json model = {
      {"_target_", "megatron.bridge.models.ministral3.ministral3_provider.Ministral3ModelProvider"},
      {"hidden_size", text.hidden_size},
      {"ffn_hidden_size", text.intermediate_size},
      {"num_layers", text.num_layers},
      {"num_attention_heads", text.num_attention_heads},
      {"num_query_groups", text.num_query_groups},
      {"kv_channels", text.head_dim},
      {"seq_length", text.max_position_embeddings},
      {"vocab_size", text.vocab_size},
      {"layernorm_epsilon", text.rms_norm_eps},
      {"share_embeddings_and_output_weights", text.tie_word_embeddings},
      {"image_token_id", config.image_token_id},
      {"params_dtype", reference("torch." + dtype_name(dtype))},
      {"bf16", dtype == at::kBFloat16},
      {"fp16", dtype == at::kHalf},
      {"hetereogenous_dist_checkpoint", per_layer_keys}};  // upstream's spelling
  add_rope(model, text.rope);

  const Json* type = find(hf_config, "model_type");
  Json embedded = {{"_target_", config_class_of(type && type->is_string() ? type->get<std::string>()
                                                                          : "mistral3")}};
  for (const auto& [key, item] : hf_config.items()) {
    // The class knows its type; the weights' dtype stands in params_dtype.
    if (key != "model_type" && key != "dtype" && key != "torch_dtype" &&
        key != "transformers_version" && key != "quantization_config") {
      embedded[key] = item;
    }
  }
  model["hf_config"] = std::move(embedded);

  // save_rng: a missing or foreign random state would end a resumed run.
  return {{"_target_", "megatron.bridge.training.config.ConfigContainer"},
          {"checkpoint",
           {{"_target_", "megatron.bridge.training.config.CheckpointConfig"},
            {"ckpt_format", "torch_dist"},
            {"save_optim", has_optimizer},
            {"save_rng", false},
            {"fully_parallel_save", true}}},
          {"model", std::move(model)}};
}

}  // namespace trestle
