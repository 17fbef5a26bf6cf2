#include "bridge/table.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

struct Rule {
  // `*` is a layer's number; a final `**` any rest of a name. The first rule that matches is taken.
  std::string megatron;
  std::vector<std::string> hf;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = {
      {"language_model.embedding.word_embeddings", {"model.embed_tokens"}},
      {"language_model.decoder.layers.*.self_attention.linear_qkv.layer_norm_weight",
       {"model.layers.*.input_layernorm.weight"}},
      {"language_model.decoder.layers.*.self_attention.linear_qkv",
       {"model.layers.*.self_attn.q_proj", "model.layers.*.self_attn.k_proj",
        "model.layers.*.self_attn.v_proj"}},
      {"language_model.decoder.layers.*.self_attention.linear_proj",
       {"model.layers.*.self_attn.o_proj"}},
      {"language_model.decoder.layers.*.mlp.linear_fc1.layer_norm_weight",
       {"model.layers.*.post_attention_layernorm.weight"}},
      {"language_model.decoder.layers.*.mlp.linear_fc1",
       {"model.layers.*.mlp.gate_proj", "model.layers.*.mlp.up_proj"}},
      {"language_model.decoder.layers.*.mlp.linear_fc2", {"model.layers.*.mlp.down_proj"}},
      {"language_model.decoder.final_layernorm", {"model.norm"}},
      {"language_model.output_layer", {"lm_head"}},
      {"vision_tower.**", {"vision_tower.**"}},
      {"multi_modal_projector.**", {"multi_modal_projector.**"}},
  };
  return table;
}

// Matches `name` against `pattern`; on success fills what `*` or `**` stood for.
bool matches(const std::string& pattern, const std::string& name, std::string& wild) {
  const size_t star = pattern.find('*');
  if (star == std::string::npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  if (pattern.ends_with("**")) {
    wild = name.substr(star);
    return true;
  }
  const size_t end = name.find_first_not_of("0123456789", star);
  wild = name.substr(star, end == std::string::npos ? end : end - star);
  return !wild.empty() && end != std::string::npos && name.substr(end) == pattern.substr(star + 1);
}

std::string filled(const std::string& pattern, const std::string& wild) {
  const size_t star = pattern.find('*');
  if (star == std::string::npos) return pattern;
  const size_t stars = pattern.ends_with("**") ? 2 : 1;
  return pattern.substr(0, star) + wild + pattern.substr(star + stars);
}

}  // namespace

std::vector<int64_t> Mapping::hf_shape(size_t part) const {
  std::vector<int64_t> result = shape;
  if (hf.size() > 1) result[0] = layout.part_size(part, shape[0]);
  return result;
}

std::vector<std::string> hf_modules(const std::string& megatron_module) {
  std::string wild;
  for (const Rule& rule : rules()) {
    if (!matches(rule.megatron, megatron_module, wild)) continue;
    std::vector<std::string> modules;
    for (const std::string& pattern : rule.hf) modules.push_back(filled(pattern, wild));
    return modules;
  }
  user_error("{} is no module of this family; known are the names of Megatron Bridge's Ministral 3",
             megatron_module);
}

std::vector<Mapping> mappings(const ModelConfig& config) {
  // A model on the meta device has every name and shape and no storage.
  const Ministral3 model(config, {at::kBFloat16, at::Device(at::kMeta)});
  const TextConfig& text = config.text;
  const auto qkv = FusedLayout::qkv(
      text.num_query_groups, text.num_attention_heads / text.num_query_groups, text.head_dim);
  std::vector<Mapping> table;
  for (const auto& entry : model.named_parameters()) {
    const std::string& name = entry.key();
    Mapping mapping{name, {}, FusedLayout::plain(), entry.value().sizes().vec()};
    const std::string suffix = name.substr(name.rfind('.'));
    if (suffix == ".layer_norm_weight") {
      mapping.hf = hf_modules(name);
    } else {
      for (const std::string& module : hf_modules(name.substr(0, name.size() - suffix.size()))) {
        mapping.hf.push_back(module + suffix);
      }
    }
    if (mapping.hf.size() == 3) mapping.layout = qkv;
    if (mapping.hf.size() == 2) mapping.layout = FusedLayout::gate_up();
    table.push_back(std::move(mapping));
  }
  return table;
}

}  // namespace trestle
