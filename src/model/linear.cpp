#include "model/linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/layers.h"

namespace trestle {

at::Tensor Build::empty(at::IntArrayRef shape) const {
  return at::empty(shape, at::TensorOptions().dtype(dtype).device(device));
}

LowRank::LowRank(int64_t in, int64_t out, int64_t rank, const Build& build) {
  // Submodules only for their names: Megatron's checkpoints say linear_in.weight and
  // linear_out.weight.
  auto linear_in = register_module("linear_in", std::make_shared<torch::nn::Module>());
  auto linear_out = register_module("linear_out", std::make_shared<torch::nn::Module>());
  a = linear_in->register_parameter("weight", build.empty({rank, in}));
  b = linear_out->register_parameter("weight", build.empty({out, rank}));
}

at::Tensor LowRank::forward(const at::Tensor& x) const { return at::linear(at::linear(x, a), b); }

Adapter::Adapter(int64_t in, int64_t out, const FusedLayout& layout,
                 const std::vector<std::string>& parts, int64_t rank, double alpha, double dropout,
                 const Build& build)
    : layout_(layout), out_(out), scale_(alpha / static_cast<double>(rank)), dropout_(dropout) {
  if (parts.empty()) {
    whole_ = std::make_shared<LowRank>(in, out, rank, build);
    // Megatron has no level between adapter and linear_in.
    for (const auto& child : whole_->named_children()) register_module(child.key(), child.value());
    return;
  }
  const std::vector<std::string> all = layout.parts();
  for (size_t i = 0; i < all.size(); ++i) {
    const bool adapted = std::find(parts.begin(), parts.end(), all[i]) != parts.end();
    pairs_.push_back(adapted
                         ? register_module(all[i], std::make_shared<LowRank>(
                                                       in, layout.part_size(i, out), rank, build))
                         : nullptr);
  }
}

at::Tensor Adapter::forward(const at::Tensor& x) const {
  const at::Tensor input = is_training() && dropout_ > 0 ? at::dropout(x, dropout_, true) : x;
  if (whole_) return whole_->forward(input) * scale_;
  std::vector<at::Tensor> deltas;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    deltas.push_back(pairs_[i] ? pairs_[i]->forward(input)
                               : at::zeros({x.size(0), layout_.part_size(i, out_)}, x.options()));
  }
  return layout_.fuse(deltas, -1) * scale_;
}

at::Tensor Adapter::delta_weight() const {
  const auto product = [](const LowRank& pair) {
    return at::mm(pair.b.to(at::kFloat), pair.a.to(at::kFloat));
  };
  if (whole_) return product(*whole_) * scale_;
  std::vector<at::Tensor> deltas;
  int64_t in = 0;
  for (const auto& pair : pairs_) {
    if (pair) in = pair->a.size(1);
  }
  for (size_t i = 0; i < pairs_.size(); ++i) {
    deltas.push_back(pairs_[i] ? product(*pairs_[i]) : at::zeros({layout_.part_size(i, out_), in}));
  }
  return layout_.fuse(deltas, 0) * scale_;
}

Linear::Linear(int64_t in, int64_t out, const Build& build, bool with_bias, FusedLayout layout)
    : layout_(layout) {
  weight = register_parameter("weight", build.empty({out, in}));
  if (with_bias) bias = register_parameter("bias", build.empty({out}));
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  at::Tensor y = at::linear(x, weight, bias);
  if (adapter_) y = y + adapter_->forward(x);
  return y;
}

void Linear::attach(std::shared_ptr<Adapter> adapter) {
  TORCH_CHECK(!adapter_, "this projection has an adapter already");
  adapter_ = register_module("adapter", std::move(adapter));
}

void Linear::merge_adapter() {
  if (!adapter_) return;
  const at::NoGradGuard no_grad;
  weight.copy_(weight.to(at::kFloat) + adapter_->delta_weight());
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
