#include "bridge/gguf_names.h"

#include <string_view>
#include <utility>

namespace trestle {

namespace {

// Parts of the names on both sides, in the order in which they are tried; `.N.` stays as it is.
constexpr std::pair<std::string_view, std::string_view> kLanguageNames[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"model.layers.", "blk."},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr std::pair<std::string_view, std::string_view> kVisionNames[] = {
    {"vision_tower.patch_conv", "v.patch_embd"},
    {"vision_tower.ln_pre", "v.pre_ln"},
    {"vision_tower.transformer.layers.", "v.blk."},
    {"attention_norm", "ln1"},
    {"ffn_norm", "ln2"},
    {"attention.q_proj", "attn_q"},
    {"attention.k_proj", "attn_k"},
    {"attention.v_proj", "attn_v"},
    {"attention.o_proj", "attn_out"},
    {"feed_forward.gate_proj", "ffn_gate"},
    {"feed_forward.up_proj", "ffn_up"},
    {"feed_forward.down_proj", "ffn_down"},
    {"multi_modal_projector.norm", "mm.input_norm"},
    {"multi_modal_projector.patch_merger.merging_layer", "mm.patch_merger"},
    {"multi_modal_projector.linear_1", "mm.1"},
    {"multi_modal_projector.linear_2", "mm.2"},
};

}  // namespace

bool is_gguf_vision(const std::string& hf) {
  return hf.starts_with("vision_tower.") || hf.starts_with("multi_modal_projector.");
}

std::string gguf_name(const std::string& hf) {
  std::string name = hf;
  const auto rename = [&](const auto& table) {
    for (const auto& [from, to] : table) {
      if (const size_t at = name.find(from); at != std::string::npos) {
        name.replace(at, from.size(), to);
      }
    }
  };
  if (is_gguf_vision(hf)) {
    rename(kVisionNames);
  } else {
    rename(kLanguageNames);
  }
  return name;
}

GgmlType gguf_stored_type(const std::string& name, const std::vector<int64_t>& shape,
                          GgmlType wanted) {
  if (shape.size() < 2 || !name.ends_with(".weight")) return GgmlType::kF32;
  if (name == "v.patch_embd.weight" || name == "mm.patch_merger.weight") {
    return wanted == GgmlType::kF16 ? GgmlType::kF16 : GgmlType::kF32;
  }
  return shape.back() % ggml_layout(wanted).block == 0 ? wanted : GgmlType::kF16;
}

}  // namespace trestle
