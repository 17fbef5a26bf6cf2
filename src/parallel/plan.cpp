#include "parallel/plan.h"

#include <fmt/format.h>

#include <charconv>

namespace trestle {

namespace {

constexpr std::string_view kLayers = "decoder.layers.";

bool holds(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

// The low-rank input of a column-parallel base is whole on every rank, and so is what an adapter
// adds behind a row-parallel one; the rest is cut as the base is.
Split adapter_split(std::string_view name, Split base) {
  const bool is_input = name.ends_with("linear_in.weight");
  if (is_input) return base == Split::kColumns ? Split::kColumns : Split::kReplicated;
  if (base == Split::kColumns) return Split::kReplicated;
  // An adapter of gate or up alone has its rows alone.
  const bool is_half = holds(name, ".gate_proj.") || holds(name, ".up_proj.");
  return base == Split::kHalvedRows && is_half ? Split::kRows : base;
}

}  // namespace

bool is_adapter_tensor(std::string_view name) { return holds(name, kAdapterPart); }

Split split_of(std::string_view name) {
  if (!holds(name, "language_model.")) return Split::kReplicated;
  if (is_adapter_tensor(name)) {
    const std::string_view base = name.substr(0, name.find(kAdapterPart));
    return adapter_split(name, split_of(fmt::format("{}.weight", base)));
  }
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
