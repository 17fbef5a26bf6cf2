#include "checkpoint/mistral_names.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace trestle {

namespace {

using NamePair = std::pair<std::string_view, std::string_view>;

// Mistral's, canonical; `*` is a layer's number.
constexpr std::array<NamePair, 25> kModules = {{
    {"tok_embeddings", "model.embed_tokens"},
    {"norm", "model.norm"},
    {"output", "lm_head"},
    {"layers.*.attention_norm", "model.layers.*.input_layernorm"},
    {"layers.*.ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"layers.*.attention.wq", "model.layers.*.self_attn.q_proj"},
    {"layers.*.attention.wk", "model.layers.*.self_attn.k_proj"},
    {"layers.*.attention.wv", "model.layers.*.self_attn.v_proj"},
    {"layers.*.attention.wo", "model.layers.*.self_attn.o_proj"},
    {"layers.*.feed_forward.w1", "model.layers.*.mlp.gate_proj"},
    {"layers.*.feed_forward.w2", "model.layers.*.mlp.down_proj"},
    {"layers.*.feed_forward.w3", "model.layers.*.mlp.up_proj"},
    {"vision_encoder.patch_conv", "vision_tower.patch_conv"},
    {"vision_encoder.ln_pre", "vision_tower.ln_pre"},
    {"vision_encoder.transformer.layers.*.attention_norm",
     "vision_tower.transformer.layers.*.attention_norm"},
    {"vision_encoder.transformer.layers.*.ffn_norm", "vision_tower.transformer.layers.*.ffn_norm"},
    {"vision_encoder.transformer.layers.*.attention.wq",
     "vision_tower.transformer.layers.*.attention.q_proj"},
    {"vision_encoder.transformer.layers.*.attention.wk",
     "vision_tower.transformer.layers.*.attention.k_proj"},
    {"vision_encoder.transformer.layers.*.attention.wv",
     "vision_tower.transformer.layers.*.attention.v_proj"},
    {"vision_encoder.transformer.layers.*.attention.wo",
     "vision_tower.transformer.layers.*.attention.o_proj"},
    {"vision_encoder.transformer.layers.*.feed_forward.w1",
     "vision_tower.transformer.layers.*.feed_forward.gate_proj"},
    {"vision_encoder.transformer.layers.*.feed_forward.w2",
     "vision_tower.transformer.layers.*.feed_forward.down_proj"},
    {"vision_encoder.transformer.layers.*.feed_forward.w3",
     "vision_tower.transformer.layers.*.feed_forward.up_proj"},
    {"patch_merger.merging_layer", "multi_modal_projector.patch_merger.merging_layer"},
    {"pre_mm_projector_norm", "multi_modal_projector.norm"},
}};
// With weight and bias.
constexpr std::array<NamePair, 2> kAdapter = {{
    {"vision_language_adapter.w_in", "multi_modal_projector.linear_1"},
    {"vision_language_adapter.w_out", "multi_modal_projector.linear_2"},
}};
constexpr std::array<NamePair, 2> kSuffixes = {{
    {".weight", ".weight"},
    {".qscale_weight", ".weight_scale_inv"},
}};

constexpr std::string_view kLayers = "layers.";

enum class Direction { kToCanonical, kToMistral };

std::optional<std::string> translated(std::string_view name, Direction direction) {
  static const auto [to_canonical, to_mistral] = [] {
    std::pair<std::map<std::string, std::string>, std::map<std::string, std::string>> maps;
    const auto add = [&](const std::string& mistral, const std::string& canonical) {
      maps.first.emplace(mistral, canonical);
      maps.second.emplace(canonical, mistral);
    };
    const auto add_module = [&](const NamePair& module) {
      for (const auto& [mistral, canonical] : kSuffixes) {
        add(std::string(module.first) + std::string(mistral),
            std::string(module.second) + std::string(canonical));
      }
    };
    for (const NamePair& module : kModules) add_module(module);
    for (const NamePair& module : kAdapter) {
      add_module(module);
      add(std::string(module.first) + ".bias", std::string(module.second) + ".bias");
    }
    return maps;
  }();
  // The one number of a name is that of its layer.
  std::string pattern(name), number;
  if (const size_t layers = name.find(kLayers); layers != std::string_view::npos) {
    const size_t begin = layers + kLayers.size();
    const size_t end = std::min(name.find_first_not_of("0123456789", begin), name.size());
    number = name.substr(begin, end - begin);
    pattern.replace(begin, number.size(), "*");
  }
  const auto& map = direction == Direction::kToCanonical ? to_canonical : to_mistral;
  const auto found = map.find(pattern);
  if (found == map.end()) return std::nullopt;
  std::string result = found->second;
  if (const size_t star = result.find('*'); star != std::string::npos) {
    if (number.empty()) return std::nullopt;
    result.replace(star, 1, number);
  }
  return result;
}

at::Tensor reordered(const at::Tensor& weight, int64_t heads, bool from_pairs,
                     std::string_view what) {
  if (weight.dim() == 0 || weight.numel() == 0 || weight.size(0) % (2 * heads) != 0) {
    user_error("{} has shape [{}]: its rows are no pairs of {} heads", what,
               fmt::join(weight.sizes(), ", "), heads);
  }
  const int64_t pairs = weight.size(0) / heads / 2;
  const at::Tensor split =
      from_pairs ? weight.reshape({heads, pairs, 2, -1}) : weight.reshape({heads, 2, pairs, -1});
  return split.transpose(1, 2).reshape(weight.sizes());
}

}  // namespace

std::optional<std::string> canonical_of_mistral(std::string_view name) {
  return translated(name, Direction::kToCanonical);
}

std::optional<std::string> mistral_of_canonical(std::string_view name) {
  return translated(name, Direction::kToMistral);
}

std::optional<int64_t> rotary_heads(std::string_view canonical, const ModelConfig& config) {
  const bool query = canonical.ends_with(".q_proj.weight");
  if (!query && !canonical.ends_with(".k_proj.weight")) return std::nullopt;
  if (canonical.starts_with("vision_tower.")) {
    return config.vision ? std::optional(config.vision->num_attention_heads) : std::nullopt;
  }
  return query ? config.text.num_attention_heads : config.text.num_query_groups;
}

at::Tensor halves_from_pairs(const at::Tensor& weight, int64_t heads, std::string_view what) {
  return reordered(weight, heads, true, what);
}

at::Tensor pairs_from_halves(const at::Tensor& weight, int64_t heads, std::string_view what) {
  return reordered(weight, heads, false, what);
}

void read_moved_rows(const TensorInfo& info, int64_t heads,
                     at::Tensor (*move)(const at::Tensor&, int64_t, std::string_view),
                     RowRange range, std::byte* out,
                     const std::function<void(RowRange, std::byte*)>& read, std::string_view what) {
  if (range.count == 0) return;
  const int64_t head = info.rows() / heads;
  if (head == 0 || info.rows() % heads != 0) {
    user_error("{} has {} rows, which are no {} heads", what, info.rows(), heads);
  }
  const int64_t first = range.first / head;
  const int64_t last = (range.first + range.count - 1) / head + 1;
  std::vector<int64_t> shape = info.shape;
  shape[0] = (last - first) * head;
  const at::Tensor whole = at::empty(shape, info.dtype);
  read({first * head, shape[0]}, static_cast<std::byte*>(whole.mutable_data_ptr()));
  const at::Tensor rows =
      move(whole, last - first, what).narrow(0, range.first - first * head, range.count);
  std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
}

at::Tensor MistralRows::read(const std::string& name) const {
  const at::Tensor tensor = source_.read(name);
  const auto heads = rotary_heads(name, config_);
  return heads ? pairs_from_halves(tensor, *heads, "tensor " + name) : tensor;
}

void MistralRows::read_rows(const std::string& name, RowRange range, std::byte* out) const {
  const auto heads = rotary_heads(name, config_);
  if (!heads) return source_.read_rows(name, range, out);
  read_moved_rows(
      tensors().at(name), *heads, pairs_from_halves, range, out,
      [&](RowRange whole, std::byte* rows) { source_.read_rows(name, whole, rows); },
      "tensor " + name);
}

}  // namespace trestle
