#include "model/ministral3.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "base/error.h"
#include "model/chunked_loss.h"
#include "model/host_input.h"
#include "parallel/collectives.h"
#include "parallel/share_out.h"

namespace trestle {

namespace {

int64_t features_of(const ModelConfig& config, const at::Tensor& image_CHW) {
  const int64_t side = config.vision->patch_size * config.projector.spatial_merge_size;
  return (image_CHW.size(1) / side) * (image_CHW.size(2) / side);
}

}  // namespace

ModelInput ModelInput::make(at::Tensor ids_T, std::vector<int64_t> lengths,
                            std::vector<at::Tensor> images_CHW) {
  Packing packing(std::move(lengths));
  at::Tensor positions_T = packing.positions().to(ids_T.device());
  return {std::move(ids_T), std::move(positions_T), std::move(packing), std::move(images_CHW), {}};
}

Ministral3::Ministral3(const ModelConfig& config, const Build& build)
    : config_(config), build_(build) {
  language_model_ =
      register_module("language_model", std::make_shared<LanguageModel>(config.text, build));
  if (!config.vision) return;
  const auto& features = config.projector.vision_feature_layers;
  if (features.size() != 1) {
    // transformers' own projector cannot run these: its norm has the width of one layer.
    user_error("vision_feature_layer names {} layers; one is supported", features.size());
  }
  if (build.stage && !build.stage->is_first) return;
  Build seeing = build;
  // No token reads them, and what is lost in a picture's features is lost for all of the answer.
  if (seeing.panels) seeing.panels = PanelForm::kBf16;
  vision_tower_ = register_module(
      "vision_tower", std::make_shared<VisionTower>(*config.vision, features.front(), seeing));
  projector_ =
      register_module("multi_modal_projector", std::make_shared<Projector>(config, seeing));
}

at::Tensor Ministral3::image_features(const std::vector<at::Tensor>& images_CHW) const {
  if (!vision_tower_) user_error("this model has no vision tower; it takes no images");
  // One after the other: the kernels of matrix products sum in an order that depends on the number
  // of rows, and a picture's features must not depend on its neighbours (they are cached, and a
  // batch cut otherwise must train the same).
  std::vector<at::Tensor> features;
  for (const at::Tensor& image : images_CHW) {
    const auto [patches_PD, grid] = vision_tower_->patches({image});
    features.push_back(projector_->forward(vision_tower_->forward(patches_PD, grid), grid));
  }
  return features.size() == 1 ? features.front() : at::cat(features);
}

at::Tensor Ministral3::shared_image_features(const std::vector<at::Tensor>& images_CHW) const {
  const ModelGroups& groups = build_.groups;
  const RankOf who = groups.picture_rank();
  if (who.ranks == 1 || !vision_tower_) return image_features(images_CHW);
  std::vector<double> costs;
  std::vector<int64_t> tokens;
  for (const at::Tensor& image : images_CHW) {
    tokens.push_back(features_of(config_, image));
    costs.push_back(static_cast<double>(tokens.back()));
  }
  const std::vector<int64_t> owners = share_out(costs, who.ranks);
  const auto trains = [](const torch::nn::Module& module) {
    return std::ranges::any_of(
        module.parameters(), [](const at::Tensor& parameter) { return parameter.requires_grad(); });
  };
  // A rank without pictures takes part in the exchange of gradients too.
  const bool gradients =
      at::GradMode::is_enabled() && (trains(*vision_tower_) || trains(*projector_));
  // Others' rows are zeros in the sum.
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < images_CHW.size(); ++i) {
    if (owners[i] == who.rank) {
      parts.push_back(image_features({images_CHW[i]}));
    } else {
      parts.push_back(at::zeros({tokens[i], config_.text.hidden_size},
                                at::TensorOptions().dtype(build_.dtype).device(build_.device))
                          .requires_grad_(gradients));
    }
  }
  // Tensor ranks have the same gradient of all features, context ranks a part of the sum each.
  const at::Tensor features = reduce_from(at::cat(parts), groups.tensor);
  return copy_to(reduce_from(features, groups.context), groups.context);
}

at::Tensor Ministral3::embed(const at::Tensor& ids_T, const at::Tensor& features) const {
  const at::Tensor x_TD = language_model_->embed(ids_T);
  const at::Tensor places = places_of(ids_T, config_.image_token_id);
  if (places.size(0) != features.size(0)) {
    user_error("the prompt has {} image tokens but its images have {} features", places.size(0),
               features.size(0));
  }
  const at::Device device = build_.device;
  return x_TD.index_copy(0, to_device(places, device),
                         to_device(features, device).to(x_TD.scalar_type()));
}

at::Tensor Ministral3::embed(const ModelInput& input) const {
  if (input.images_CHW.empty()) return language_model_->embed(input.ids_T);
  at::Tensor features =
      input.features.defined() ? input.features : shared_image_features(input.images_CHW);
  if (input.context) {
    features = features.index_select(0, to_device(input.context->features, features.device()));
  }
  return embed(input.ids_T, features);
}

at::Tensor Ministral3::spread(const at::Tensor& x_TD) const {
  return build_.groups.spread(x_TD, build_.groups.spreads(is_training()));
}

int64_t Ministral3::rows_between_layers(const ModelInput& input) const {
  const ModelGroups& groups = build_.groups;
  const int64_t tokens = input.ids_T.size(0);
  return groups.spreads(is_training()) ? tokens / groups.tensor.size() : tokens;
}

at::Tensor Ministral3::hidden_from(const at::Tensor& embedded_TD, const ModelInput& input,
                                   KvCache* cache) const {
  at::Tensor x_TD = through(spread(embedded_TD), input, {0, config_.text.num_layers}, cache);
  if (cache != nullptr) cache->advance(input.packing.lengths());
  return x_TD;
}

at::Tensor Ministral3::through(const at::Tensor& x_TD, const ModelInput& input, LayerRun run,
                               KvCache* cache) const {
  const at::Device device = build_.device;
  LayerContext context = language_model_->context(
      to_device(input.positions_T, device), input.packing.to(device), cache, x_TD.scalar_type());
  if (input.context) {
    context.share = std::make_shared<const ContextShare>(input.context->to(device));
  }
  return language_model_->layers(x_TD, static_cast<size_t>(run.first),
                                 static_cast<size_t>(run.last), context);
}

at::Tensor Ministral3::hidden(const ModelInput& input, KvCache* cache) const {
  return hidden_from(embed(input), input, cache);
}

at::Tensor Ministral3::logits(const ModelInput& input, KvCache* cache) const {
  return language_model_->head(hidden(input, cache));
}

std::pair<at::Tensor, int64_t> Ministral3::loss_sum(const ModelInput& input,
                                                    const at::Tensor& labels_T) const {
  const RankBatch batch = rank_batch(input, labels_T);
  return {loss_from(hidden(batch.input), batch.labels_T), Targets::of(labels_T).count()};
}

RankBatch Ministral3::rank_batch(const ModelInput& input, const at::Tensor& labels_T) const {
  const ModelGroups& groups = build_.groups;
  return batch_of_rank(input, labels_T, groups, groups.spreads(is_training()),
                       config_.image_token_id);
}

at::Tensor Ministral3::loss_from(const at::Tensor& hidden_TD, const at::Tensor& labels_T) const {
  const Targets targets = Targets::of(labels_T);
  const at::Device device = build_.device;
  const at::Tensor places = to_device(targets.places_N, device);
  const ModelGroups& groups = build_.groups;
  const at::Tensor rows =
      groups.enter(hidden_TD, groups.spreads(is_training())).index_select(0, places);
  return chunked_cross_entropy(language_model_->final_norm(rows), language_model_->head_weight(),
                               to_device(targets.ids_N, device), groups.tensor);
}

void Ministral3::set_recompute(const Recompute& recompute) {
  language_model_->set_recompute(recompute);
  if (vision_tower_) vision_tower_->set_recompute(recompute);
}

void Ministral3::initialize(uint64_t seed, double std) {
  const at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const double depth = std::sqrt(2.0 * static_cast<double>(language_model_->num_layers()));
  const auto own = named_parameters();
  // A stage draws the others' numbers too, and leaves them.
  const auto all =
      build_.stage ? Ministral3(config_, build_.shapes_of_whole()).named_parameters() : own;
  for (const auto& entry : all) {
    const std::string& name = entry.key();
    const at::Tensor* const here = own.find(name);
    at::Tensor parameter = here != nullptr ? *here : entry.value();
    const auto ends_with = [&](const char* suffix) { return name.ends_with(suffix); };
    if (ends_with("bias")) {
      parameter.zero_();
    } else if (parameter.dim() == 1) {
      parameter.fill_(1);
    } else {
      const bool output = ends_with("linear_proj.weight") || ends_with("linear_fc2.weight");
      const Split split = split_of(name);
      const RankOf who = build_.groups.tensor_rank();
      const at::Tensor whole =
          at::normal(0.0, output ? std / depth : std,
                     whole_sizes(parameter.sizes(), split, who.ranks), generator);
      parameter.copy_(share_of(whole, split, who));
    }
  }
}

}  // namespace trestle
