#include "train/params_norm.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <numeric>

#include "kernels/optimizer.h"
#include "model/host_input.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

at::Tensor norm_of(const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  return at::linalg_vector_norm(tensor, 2, std::nullopt, false, at::kFloat);
}

double squares(const std::vector<at::Tensor>& norms) {
  const std::vector<double> values = read_scalars(norms);
  return std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
}

}  // namespace

ParamsNorm::ParamsNorm(const Ministral3& model, const AdamW& optimizer) : optimizer_(optimizer) {
  std::vector<at::Tensor> frozen;
  for (const at::Tensor& parameter : model.parameters()) {
    if (parameter.requires_grad() || parameter.is_meta()) continue;
    frozen.push_back(norm_of(parameter));
  }
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto* linear = dynamic_cast<const Linear*>(module.get());
    // One that is held in 4 or 8 bits or in FP8.
    if (linear == nullptr || !linear->weight.is_meta()) continue;
    linear->for_dense_rows(
        [&](int64_t, const at::Tensor& rows) { frozen.push_back(norm_of(rows)); });
  }
  frozen_squares_ = squares(frozen);
}

double ParamsNorm::now() const {
  std::vector<at::Tensor> masters;
  for (const auto& [name, tensor] : optimizer_.state()) {
    if (name.starts_with("param.")) masters.push_back(norm_of(tensor));
  }
  return std::sqrt(frozen_squares_ + squares(masters));
}

}  // namespace trestle
