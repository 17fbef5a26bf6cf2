// The two spellings of decoder tensors in a Megatron checkpoint: stacked over layers
// (`decoder.layers.mlp.linear_fc1.weight` [L, ...]) and one a layer
// (`decoder.layers.3.mlp.linear_fc1.weight`). Called by the checkpoint and its writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// A name of one layer, taken apart: `before` ends with "decoder.layers.", `after` starts behind
/// the number's point.
struct LayerName {
  std::string before;
  int64_t layer = 0;
  std::string after;

  std::string stacked() const { return before + after; }
  std::string of_layer(int64_t number) const;
};

/// Nothing when the name is no decoder layer's (the vision tower keeps its own layers' names).
std::optional<LayerName> split_layer_name(std::string_view name);
/// Nothing when the key is not stacked; `layer` is 0.
std::optional<LayerName> split_stacked_key(std::string_view key);

/// Whether a key of the model is an adapter's. Megatron Bridge says `.adapter` where it wraps a
/// module, and not where it adapts a plain torch one in place (LinearAdapter).
bool is_adapter_key(std::string_view name);

/// Whether a key belongs to the model, not to the optimizer or the run.
bool is_model_key(std::string_view key);

/// Before the keys of an optimizer's state.
inline constexpr std::string_view kOptimizerState = "optimizer.state.";

/// "optimizer.state.exp_avg.NAME" -> NAME; a model's name as it is.
std::string_view parameter_of(std::string_view key);

/// Whether a Megatron tensor may have more rows than the config's vocabulary, which Megatron pads:
/// embedding and output head, nothing else.
bool may_be_padded(std::string_view megatron);

}  // namespace trestle
