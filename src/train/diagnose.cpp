#include "train/diagnose.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "model/ministral3.h"

namespace trestle {

namespace {

bool is_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

}  // namespace

std::string first_bad_tensor(const Ministral3& model, const Batch& batch) {
  const at::NoGradGuard no_grad;
  for (const auto& entry : model.named_parameters()) {
    if (entry.value().is_meta()) continue;  // quantised, and found finite when it was
    if (!is_finite(entry.value())) return "parameter " + entry.key();
  }
  const ModelInput& input = batch.input;
  for (size_t i = 0; i < input.images_CHW.size(); ++i) {
    if (!is_finite(input.images_CHW[i])) return fmt::format("pixels of image {}", i);
  }
  if (!input.images_CHW.empty() && !is_finite(model.image_features(input.images_CHW))) {
    return "output of the vision tower";
  }
  at::Tensor x_TD = model.embed(input);
  const LanguageModel& language = model.language_model();
  const LayerContext context =
      language.context(input.positions_T, input.packing, nullptr, x_TD.scalar_type());
  for (size_t i = 0; i < language.num_layers(); ++i) {
    x_TD = language.layers(x_TD, i, i + 1, context);
    if (!is_finite(x_TD)) return fmt::format("output of decoder layer {}", i);
  }
  const at::Tensor targets_T = batch.labels_T.ne(-100).nonzero().view({-1});
  if (!is_finite(language.head(x_TD.index_select(0, targets_T)))) return "logits";
  return "no tensor of a second forward";
}

std::string first_bad_gradient(const AdamW::NamedTensors& parameters) {
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined() && !is_finite(parameter.grad())) return name;
  }
  return {};
}

}  // namespace trestle
