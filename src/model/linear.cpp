#include "model/linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "kernels/matrix_product.h"
#include "model/layers.h"

namespace trestle {

at::Tensor Build::empty(at::IntArrayRef shape) const {
  return at::empty(shape, at::TensorOptions().dtype(dtype).device(device));
}

std::vector<Derived::Stamp> Derived::stamps_of(const std::vector<at::Tensor>& sources) {
  std::vector<Stamp> stamps;
  for (const at::Tensor& source : sources) {
    if (source.is_inference()) return {};
    stamps.push_back({source.const_data_ptr(), source._version()});
  }
  return stamps;
}

Linear::Linear(int64_t in, int64_t out, const Build& build, bool with_bias, FusedLayout layout)
    : layout_(layout) {
  Build values = build;
  if (build.weight_bits < 16) {
    quantized_.emplace(out, in, build.weight_bits);
    values.device = at::kMeta;
  }
  weight = register_parameter("weight", values.empty({out, in}));
  if (with_bias) bias = register_parameter("bias", build.empty({out}));
}

at::Tensor Linear::product(const at::Tensor& x) const {
  return quantized_ ? quantized_linear(x, *quantized_) : times_transposed(x, weight);
}

at::Tensor Linear::product_and_bias(const at::Tensor& x) const {
  if (!quantized_) return times_transposed(x, weight, bias);
  return bias.defined() ? product(x) + bias : product(x);
}

at::Tensor Linear::dense_weight() const {
  return quantized_ ? quantized_->dense(weight.scalar_type()) : weight;
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  if (!adapter_) return product_and_bias(x);
  const at::Tensor input = adapter_->dropped(x);
  if (!adapter_->is_dora()) return product_and_bias(x) + adapter_->delta(input);
  // The gain in fp32, so that bf16 rounds once.
  at::Tensor y = product(input) + adapter_->delta(input);
  y = (y * adapter_->gain(row_norms())).to(x.scalar_type());
  // Dropout leaves W x itself alone, as in peft and Megatron Bridge:
  // W x + (g - 1) W d + g s B A d = g (W + s B A) d + W (x - d).
  if (!input.is_same(x)) y = y + product(x - input);
  return bias.defined() ? y + bias : y;
}

const at::Tensor& Linear::row_norms() const {
  // Fused optimizer kernels change what they train without counting a version.
  const bool training = at::GradMode::is_enabled();
  // What is kept serves training too, which takes no tensor made in inference mode.
  const c10::InferenceMode normal(false);
  const at::Tensor& held = quantized_ ? quantized_->codes() : weight;
  const at::Tensor& squares = row_squares_.get({held}, !(training && weight.requires_grad()),
                                               [&] { return square_rows(dense_weight()); });
  std::vector<at::Tensor> sources = adapter_->low_rank_weights();
  sources.push_back(held);
  return row_norms_.get(sources, !training,
                        [&] { return adapter_->row_norms(dense_weight(), squares); });
}

void Linear::attach(std::shared_ptr<Adapter> adapter) {
  TORCH_CHECK(!adapter_, "this projection has an adapter already");
  adapter_ = register_module("adapter", std::move(adapter));
}

void Linear::merge_adapter() {
  if (!adapter_) return;
  TORCH_CHECK(!quantized_, "an adapter is merged into the original weight, not the quantised one");
  const at::NoGradGuard no_grad;
  weight.copy_(adapter_->merged(weight));
  unregister_module("adapter");
  adapter_ = nullptr;
}

NormLinear::NormLinear(int64_t in, int64_t out, double eps, const Build& build, FusedLayout layout)
    : Linear(in, out, build, false, layout), eps_(eps) {
  layer_norm_weight = register_parameter("layer_norm_weight", build.empty({in}));
}

at::Tensor NormLinear::forward(const at::Tensor& x) const {
  return Linear::forward(rms_norm(x, layer_norm_weight, eps_));
}

}  // namespace trestle
