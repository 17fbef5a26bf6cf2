#include "train/params_norm.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>

#include "model/ministral3.h"
#include "train/optimizer.h"

namespace trestle {

namespace {

double squares(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  const auto norm = at::linalg_vector_norm(tensor, 2, std::nullopt, false, at::kFloat);
  return std::pow(norm.item<double>(), 2);
}

}  // namespace

ParamsNorm::ParamsNorm(const Ministral3& model, const AdamW& optimizer) : optimizer_(optimizer) {
  for (const at::Tensor& parameter : model.parameters()) {
    if (parameter.requires_grad() || parameter.is_meta()) continue;
    frozen_squares_ += squares(parameter);
  }
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto* linear = dynamic_cast<const Linear*>(module.get());
    // One that is held in 4 or 8 bits or in FP8.
    if (linear == nullptr || !linear->weight.is_meta()) continue;
    linear->for_dense_rows(
        [&](int64_t, const at::Tensor& rows) { frozen_squares_ += squares(rows); });
  }
}

double ParamsNorm::now() const {
  double sum = frozen_squares_;
  for (const auto& [name, tensor] : optimizer_.state()) {
    if (name.starts_with("param.")) sum += squares(tensor);
  }
  return std::sqrt(sum);
}

}  // namespace trestle
