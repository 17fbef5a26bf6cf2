#include "parallel/plan.h"

#include <charconv>
#include <string>

namespace trestle {

namespace {

constexpr std::string_view kLayers = "decoder.layers.";

bool holds(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

}  // namespace

bool is_adapter_tensor(std::string_view name) { return holds(name, kAdapterPart); }

Split split_of(std::string_view name) {
  if (!holds(name, "language_model.") || is_adapter_tensor(name)) return Split::kReplicated;
  if (holds(name, "layer_norm_weight")) return Split::kReplicated;
  if (holds(name, "mlp.linear_fc1.")) return Split::kHalvedRows;
  if (holds(name, "self_attention.linear_qkv.") || holds(name, "word_embeddings.") ||
      holds(name, "output_layer.")) {
    return Split::kRows;
  }
  if (name.ends_with("self_attention.linear_proj.weight") ||
      name.ends_with("mlp.linear_fc2.weight")) {
    return Split::kColumns;
  }
  return Split::kReplicated;
}

Split held_split(std::string_view name) {
  const size_t at = name.find(kAdapterPart);
  if (at == std::string_view::npos) return split_of(name);
  const Split base = split_of(std::string(name.substr(0, at)) + ".weight");
  const std::string_view inner = name.substr(at + kAdapterPart.size());
  const bool is_a = inner.ends_with("linear_in.weight");
  if (base == Split::kColumns) return is_a ? base : Split::kReplicated;
  if (base == Split::kReplicated || is_a) return Split::kReplicated;
  // One part of a fused projection (q_proj.linear_out.weight) has its rows together.
  const bool is_part = !inner.starts_with("linear_") && !inner.starts_with("weight_magnitude");
  return is_part ? Split::kRows : base;
}

int64_t PipelinePlan::stage_of(std::string_view name) const {
  const size_t at = name.find(kLayers);
  if (at == std::string_view::npos) {
    const bool last = holds(name, "decoder.final_layernorm") || holds(name, "output_layer");
    return last ? stages - 1 : 0;
  }
  int64_t layer = 0;
  const char* start = name.data() + at + kLayers.size();
  std::from_chars(start, name.data() + name.size(), layer);
  return layer * stages / layers;
}

}  // namespace trestle
