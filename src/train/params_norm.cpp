#include "train/params_norm.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <numeric>

#include "kernels/optimizer.h"
#include "model/host_input.h"
#include "model/ministral3.h"
#include "train/model_part.h"

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

ParamsNorm::ParamsNorm(const Ministral3& model, const AdamW& optimizer, const Grid& grid,
                       bool shared_out)
    : optimizer_(optimizer), grid_(grid), shared_out_(shared_out) {
  std::vector<at::Tensor> frozen;
  for (const auto& entry : model.named_parameters()) {
    const at::Tensor& parameter = entry.value();
    if (parameter.requires_grad() || parameter.is_meta()) continue;
    if (is_counted(grid, entry.key())) frozen.push_back(norm_of(parameter));
  }
  for (const auto& entry : model.named_modules("", /*include_self=*/false)) {
    const auto* linear = dynamic_cast<const Linear*>(entry.value().get());
    // One that is held in 4 or 8 bits or in FP8.
    if (linear == nullptr || !linear->weight.is_meta()) continue;
    if (!is_counted(grid, entry.key() + ".weight")) continue;
    linear->for_dense_rows(
        [&](int64_t, const at::Tensor& rows) { frozen.push_back(norm_of(rows)); });
  }
  at::Tensor sum = at::full({1}, squares(frozen), at::kDouble);
  grid.model.all_reduce(sum);
  frozen_squares_ = *sum.const_data_ptr<double>();
}

double ParamsNorm::now() const {
  std::vector<at::Tensor> masters;
  for (const auto& [name, tensor] : optimizer_.state()) {
    if (!name.starts_with("param.") || !is_counted(grid_, name, shared_out_)) continue;
    masters.push_back(norm_of(tensor));
  }
  at::Tensor sum = at::full({1}, squares(masters), at::kDouble);
  (shared_out_ ? grid_.world : grid_.model).all_reduce(sum);
  return std::sqrt(frozen_squares_ + *sum.const_data_ptr<double>());
}

}  // namespace trestle
