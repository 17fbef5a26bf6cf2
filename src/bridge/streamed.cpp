#include "bridge/streamed.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/accumulate.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/load.h"
#include "bridge/table.h"
#include "kernels/matrix_product.h"
#include "model/host_input.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

constexpr int64_t kTextTokens = 24, kMergedRows = 2, kMergedColumns = 3;
constexpr int64_t kVocabularyRows = 8192;
constexpr const char* kEmbedding = "language_model.embedding.word_embeddings.weight";
constexpr const char* kHead = "language_model.output_layer.weight";

// Only the rows of the ids: the table may be larger than all the rest that is held.
at::Tensor embedded(const TensorSource& source, const at::Tensor& ids_T, at::ScalarType dtype) {
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < ids_T.size(0); ++i) {
    rows.push_back(read_range(source, kEmbedding, {ids_T[i].item<int64_t>(), 1}).to(dtype));
  }
  return at::cat(rows);
}

at::Tensor image_features(const TensorSource& source, const ModelConfig& config,
                          const VisionTower& shell, const Build& build,
                          const std::vector<at::Tensor>& images_CHW) {
  // What stands before the layers.
  VisionConfig first = *config.vision;
  first.num_layers = 0;
  VisionTower entry(first, /*feature_layer=*/0, build);
  load_weights(entry, source, "vision_tower.");
  auto [x_PD, grid] = entry.patches(images_CHW);
  const Rotation rotation = entry.rotation(grid, x_PD.scalar_type());
  for (size_t i = 0; i < shell.depth(); ++i) {
    VisionLayer layer(*config.vision, build);
    load_weights(layer, source, fmt::format("vision_tower.transformer.layers.{}.", i));
    x_PD = layer.forward(x_PD, rotation, grid.packing);
  }
  Projector projector(config, build);
  load_weights(projector, source, "multi_modal_projector.");
  return projector.forward(x_PD, grid);
}

at::Tensor head(const TensorSource& source, const ModelConfig& config, const Build& build,
                const at::Tensor& x_TD) {
  RmsNorm norm(config.text.hidden_size, config.text.rms_norm_eps, build);
  load_weights(norm, source, "language_model.decoder.final_layernorm.");
  const at::Tensor normed = norm.forward(x_TD);
  const char* weight = config.text.tie_word_embeddings ? kEmbedding : kHead;
  std::vector<at::Tensor> blocks;
  for (int64_t first = 0; first < config.text.vocab_size; first += kVocabularyRows) {
    const int64_t count = std::min(kVocabularyRows, config.text.vocab_size - first);
    const at::Tensor rows = read_range(source, weight, {first, count});
    blocks.push_back(times_transposed(normed, rows.to(build.device, build.dtype)));
  }
  return at::cat(blocks, 1).to(at::kCPU, at::kFloat);
}

LayerContext on(at::Device device, LayerContext context) {
  for (at::Tensor* each : {&context.rotation.cos, &context.rotation.sin, &context.query_scale}) {
    if (each->defined()) *each = each->to(device);
  }
  return context;
}

}  // namespace

ModelInput probe_input(const ModelConfig& config) {
  at::Generator generator = at::detail::createCPUGenerator(20251202);
  const TextConfig& text = config.text;
  at::Tensor ids_T = at::randint(text.vocab_size, {kTextTokens}, generator, at::kLong);
  const int64_t picture = config.image_token_id;
  if (config.vision) ids_T.masked_fill_(ids_T == picture, picture == 0 ? 1 : picture - 1);
  std::vector<at::Tensor> images;
  if (config.vision) {
    const int64_t side = config.vision->patch_size * config.projector.spatial_merge_size;
    images.push_back(at::randn(
        {config.vision->num_channels, kMergedRows * side, kMergedColumns * side}, generator));
    ids_T = at::cat({ids_T.narrow(0, 0, kTextTokens / 2),
                     at::full({kMergedRows * kMergedColumns}, picture, at::kLong),
                     ids_T.narrow(0, kTextTokens / 2, kTextTokens / 2)});
  }
  const int64_t T = ids_T.size(0);
  ModelInput input = ModelInput::make(std::move(ids_T), {T}, std::move(images));
  const int64_t beyond =
      text.rope.yarn ? text.rope.yarn->original_max_position_embeddings : int64_t{0};
  const int64_t second = T / 2;
  if (beyond > 0 && beyond + T <= text.max_position_embeddings) {
    input.positions_T.narrow(0, second, T - second).add_(beyond);
  }
  return input;
}

uint64_t streamed_bytes(const ModelConfig& config, at::ScalarType dtype) {
  // Whatever is held at one time stands under one of these.
  constexpr std::array<std::string_view, 4> kParts = {
      "language_model.decoder.layers.0.", "vision_tower.transformer.layers.0.",
      "vision_tower.patch_conv.", "multi_modal_projector."};
  std::array<uint64_t, kParts.size()> values{};
  for (const Mapping& mapping : mappings(config)) {
    const auto numel = static_cast<uint64_t>(c10::multiply_integers(mapping.shape));
    for (size_t i = 0; i < kParts.size(); ++i) {
      if (mapping.megatron.starts_with(kParts[i])) values[i] += numel;
    }
  }
  const auto vocabulary = static_cast<uint64_t>(config.text.vocab_size);
  const auto rows = std::min(static_cast<uint64_t>(kVocabularyRows), vocabulary);
  const uint64_t head = 2 * rows * static_cast<uint64_t>(config.text.hidden_size);
  const auto tokens = static_cast<uint64_t>(kTextTokens + kMergedRows * kMergedColumns);
  // Both in fp32 and, while the last is put together, its blocks.
  const uint64_t logits = 3 * tokens * vocabulary * sizeof(float);
  return std::max(head, *std::ranges::max_element(values)) * c10::elementSize(dtype) + logits;
}

at::Tensor streamed_logits(const TensorSource& megatron, const ModelConfig& config,
                           at::ScalarType dtype, const ModelInput& input, at::Device device) {
  const c10::InferenceMode inference;
  const Build build{dtype, device};
  // For what is not weights: places of the pictures' features, rotations.
  const Ministral3 shell(config, {dtype, at::Device(at::kMeta)});
  at::Tensor x_TD = embedded(megatron, input.ids_T, dtype).to(device);
  if (!input.images_CHW.empty()) {
    const at::Tensor features =
        image_features(megatron, config, *shell.vision_tower(), build, input.images_CHW);
    const at::Tensor places = places_of(input.ids_T, config.image_token_id);
    x_TD = x_TD.index_copy(0, to_device(places, device), features.to(dtype));
  }
  const LayerContext context =
      on(device, shell.language_model().context(input.positions_T, input.packing, nullptr, dtype));
  for (size_t i = 0; i < shell.language_model().num_layers(); ++i) {
    DecoderLayer layer(config.text, build);
    load_weights(layer, megatron, fmt::format("language_model.decoder.layers.{}.", i));
    x_TD = layer.forward(x_TD, context, i);
  }
  return head(megatron, config, build, x_TD);
}

}  // namespace trestle
