#include "planner/shape.h"

#include <torch/nn/module.h>

#include <algorithm>

#include "base/error.h"
#include "bridge/load_quantized.h"
#include "model/ministral3.h"
#include "peft/lora.h"
#include "peft/sites.h"

namespace trestle {

namespace {

struct TextSize {
  const char* name;
  int64_t layers, hidden, ffn;
  bool tied;
  double theta;
};
// config.json of mistralai/Ministral-3-{3B,8B,14B}-*-2512.
constexpr TextSize kSizes[] = {{"3b", 26, 3072, 9216, true, 1e6},
                               {"8b", 34, 4096, 14336, false, 1e6},
                               {"14b", 40, 5120, 16384, false, 1e9}};

constexpr std::string_view kDecoderLayers = "language_model.decoder.layers.";

// Codes and one fp32 scale, as linear/fp8_weight.h holds a matrix that a checkpoint has so.
int64_t fp8_bytes(int64_t count) { return count + 4; }

int64_t bytes_of(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

// What a projection is held by, in bytes; nothing where the parameter itself is.
std::optional<int64_t> held_bytes(const std::string& name, Linear& linear, const Build& build) {
  if (build.keep_fp8) {
    if (!name.starts_with(kDecoderLayers)) return std::nullopt;  // never stored so
    return fp8_bytes(linear.weight.numel());
  }
  const NamedTensors held = held_tensors(linear);
  if (held.empty()) return std::nullopt;
  int64_t bytes = 0;
  for (const auto& [part, tensor] : held) bytes += bytes_of(tensor);
  return bytes;
}

}  // namespace

ModelConfig ministral3_of_size(const std::string& size) {
  const auto* found = std::ranges::find(kSizes, size, &TextSize::name);
  if (found == std::end(kSizes)) user_error("size {}: there are 3b, 8b and 14b", size);
  ModelConfig config;
  config.text = {.hidden_size = found->hidden,
                 .intermediate_size = found->ffn,
                 .num_layers = found->layers,
                 .num_attention_heads = 32,
                 .num_query_groups = 8,
                 .head_dim = 128,
                 .vocab_size = 131072,
                 .max_position_embeddings = 262144,
                 .tie_word_embeddings = found->tied,
                 .rope = {.theta = found->theta,
                          .yarn = YarnConfig(),
                          .llama_4_scaling_beta = 0.1,
                          .llama_4_original_max_position_embeddings = 16384}};
  config.text.rope.yarn->factor = 16;
  config.text.rope.yarn->original_max_position_embeddings = 16384;
  config.vision = VisionConfig{.hidden_size = 1024,
                               .intermediate_size = 4096,
                               .num_layers = 24,
                               .num_attention_heads = 16,
                               .head_dim = 64};
  return config;
}

ModelShape::ModelShape(const ModelConfig& model, const TrainConfig& config) : model_(model) {
  const Build build = base_build(config.dtype(), config.peft.base_bits, at::kMeta);
  Ministral3 whole(model, build);
  for (const at::Tensor& parameter : whole.parameters()) parameter.set_requires_grad(false);
  if (!config.trains_adapters()) {
    forward_flops_ = std::make_unique<ModelFlops>(whole);
    for (const auto& entry : whole.named_parameters()) {
      entry.value().requires_grad_(!config.model.freezes(entry.key()));
    }
  } else {
    if (config.peft.adapter_path.empty()) {
      attach_lora_shapes(whole, config.peft);
    } else {
      load_adapter(whole, config.peft.adapter_path);
    }
    for (const at::Tensor& parameter : whole.parameters()) parameter.set_requires_grad(false);
    forward_flops_ = std::make_unique<ModelFlops>(whole);
    train_adapters_only(whole);
  }
  training_flops_ = std::make_unique<ModelFlops>(whole);
  const auto linears = projections(whole);
  for (const auto& entry : whole.named_parameters()) {
    const at::Tensor& value = entry.value();
    PlannedWeight weight{.name = entry.key(),
                         .rows = value.size(0),
                         .count = value.numel(),
                         .bytes = bytes_of(value),
                         .trains = value.requires_grad(),
                         .decayed = value.dim() >= 2,
                         .split = split_of(entry.key())};
    if (const auto linear = linears.find(entry.key()); linear != linears.end()) {
      weight.bytes = held_bytes(weight.name, *linear->second, build).value_or(weight.bytes);
    }
    const size_t adapter = weight.name.find(kAdapterPart);
    if (adapter != std::string::npos && weight.name.ends_with(".linear_in.weight")) {
      ranks_[weight.name.substr(0, adapter)] += weight.rows;
    }
    weights_.push_back(std::move(weight));
  }
  if (trained() == 0) {
    user_error(
        "nothing is trained: model.freeze_language_model, model.freeze_vision_model and "
        "model.freeze_vision_projection freeze all that the model has");
  }
}

ShardedSizes ModelShape::sizes() const { return sharded_sizes(model_.text); }

int64_t ModelShape::parameters() const {
  int64_t sum = 0;
  for (const PlannedWeight& weight : weights_) sum += weight.count;
  return sum;
}

int64_t ModelShape::trained() const {
  int64_t sum = 0;
  for (const PlannedWeight& weight : weights_) sum += weight.trains ? weight.count : 0;
  return sum;
}

bool ModelShape::trains(std::string_view prefix) const {
  return std::ranges::any_of(weights_, [&](const PlannedWeight& weight) {
    return weight.trains && weight.name.starts_with(prefix);
  });
}

bool ModelShape::vision_trains() const {
  return trains("vision_tower.") || trains("multi_modal_projector.");
}

int64_t ModelShape::adapter_rank(const std::string& projection) const {
  const auto found = ranks_.find(projection);
  return found == ranks_.end() ? 0 : found->second;
}

int64_t share_of_rank(const PlannedWeight& weight, int64_t count, int64_t tensor_ranks) {
  return weight.split == Split::kReplicated ? count : count / tensor_ranks;
}

int64_t stage_of(const PlannedWeight& weight, const Topology& topology, int64_t layers) {
  return PipelinePlan{topology.chunks(), layers}.stage_of(weight.name) % topology.pipeline;
}

}  // namespace trestle
