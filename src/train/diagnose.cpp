#include "train/diagnose.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "bridge/load_quantized.h"
#include "model/host_input.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

bool is_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

// What quantised weights are made of was found finite when they were.
bool is_finite(const Linear& linear) {
  bool finite = true;
  if (linear.fp8() != nullptr) {
    linear.for_dense_rows([&](int64_t, const at::Tensor& rows) { finite &= is_finite(rows); });
  }
  return finite;
}

}  // namespace

std::string first_bad_tensor(const Ministral3& model, const Batch& batch) {
  const at::NoGradGuard no_grad;
  const auto linears = projections(model);
  for (const auto& entry : model.named_parameters()) {
    const bool finite =
        entry.value().is_meta() ? is_finite(*linears.at(entry.key())) : is_finite(entry.value());
    if (!finite) return "parameter " + entry.key();
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
  const LayerContext context = language.context(input.positions_T.to(x_TD.device()), input.packing,
                                                nullptr, x_TD.scalar_type());
  for (size_t i = 0; i < language.num_layers(); ++i) {
    x_TD = language.layers(x_TD, i, i + 1, context);
    if (!is_finite(x_TD)) return fmt::format("output of decoder layer {}", i);
  }
  const at::Tensor places = to_device(Targets::of(batch.labels_T).places_N, x_TD.device());
  if (!is_finite(language.head(x_TD.index_select(0, places)))) return "logits";
  return "no tensor of a second forward";
}

std::string first_bad_gradient(const AdamW::NamedTensors& parameters) {
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined() && !is_finite(parameter.grad())) return name;
  }
  return {};
}

}  // namespace trestle
