#include "megatron/names.h"

#include <charconv>

#include "parallel/plan.h"

namespace trestle {

namespace {

constexpr std::string_view kLayers = "decoder.layers.";

// The end of "decoder.layers." where it is a whole component, else npos.
size_t end_of_prefix(std::string_view name) {
  const size_t at = name.find(kLayers);
  if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.'))
    return std::string_view::npos;
  return at + kLayers.size();
}

}  // namespace

std::string LayerName::of_layer(int64_t number) const {
  return before + std::to_string(number) + "." + after;
}

std::optional<LayerName> split_layer_name(std::string_view name) {
  const size_t start = end_of_prefix(name);
  if (start == std::string_view::npos) return std::nullopt;
  int64_t layer = 0;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data() + start, last, layer);
  if (error != std::errc() || layer < 0 || end == last || *end != '.') return std::nullopt;
  return LayerName{std::string(name.substr(0, start)), layer, std::string(end + 1, last)};
}

std::optional<LayerName> split_stacked_key(std::string_view key) {
  const size_t start = end_of_prefix(key);
  if (start == std::string_view::npos || split_layer_name(key)) return std::nullopt;
  return LayerName{std::string(key.substr(0, start)), 0, std::string(key.substr(start))};
}

bool is_adapter_key(std::string_view name) {
  return is_adapter_tensor(name) || name.ends_with(".linear_in.weight") ||
         name.ends_with(".linear_out.weight");
}

bool is_model_key(std::string_view key) {
  for (const std::string_view other :
       {"optimizer.", "chained_", "rng_state", "common_state", "trestle."}) {
    if (key.starts_with(other)) return false;
  }
  return key.find("._extra_state") == std::string_view::npos;
}

std::string_view parameter_of(std::string_view key) {
  if (!key.starts_with(kOptimizerState)) return key;
  const size_t end = key.find('.', kOptimizerState.size());
  return end == std::string_view::npos ? key : key.substr(end + 1);
}

bool may_be_padded(std::string_view megatron) {
  return megatron == "language_model.embedding.word_embeddings.weight" ||
         megatron == "language_model.output_layer.weight";
}

}  // namespace trestle
