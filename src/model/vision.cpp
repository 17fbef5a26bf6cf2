#include "model/vision.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "kernels/matrix_product.h"
#include "kernels/swiglu.h"
#include "model/host_input.h"

namespace trestle {

namespace {

constexpr double kVisionNormEps =
    1e-5;  // fixed in transformers' PixtralAttentionLayer, not in the config

std::shared_ptr<Linear> child_linear(torch::nn::Module& parent, const std::string& name, int64_t in,
                                     int64_t out, const Build& build, bool bias = false) {
  return parent.register_module(name, std::make_shared<Linear>(in, out, build, bias));
}

size_t feature_depth(int64_t feature_layer, int64_t layers) {
  // hidden_states[0] is the input of layer 0, hidden_states[-1] the output of the last.
  const int64_t depth = feature_layer < 0 ? layers + 1 + feature_layer : feature_layer;
  if (depth < 0 || depth > layers) {
    user_error("vision_feature_layer={} but the vision tower has {} layers", feature_layer, layers);
  }
  return static_cast<size_t>(depth);
}

}  // namespace

VisionLayer::VisionLayer(const VisionConfig& config, const Build& build)
    : head_dim_(config.head_dim), activation_(config.hidden_act) {
  const int64_t D = config.hidden_size;
  const int64_t F = config.intermediate_size;
  const int64_t heads = config.num_attention_heads * config.head_dim;
  attention_norm_ =
      register_module("attention_norm", std::make_shared<RmsNorm>(D, kVisionNormEps, build));
  ffn_norm_ = register_module("ffn_norm", std::make_shared<RmsNorm>(D, kVisionNormEps, build));
  auto attention = register_module("attention", std::make_shared<torch::nn::Module>());
  q_proj_ = child_linear(*attention, "q_proj", D, heads, build);
  k_proj_ = child_linear(*attention, "k_proj", D, heads, build);
  v_proj_ = child_linear(*attention, "v_proj", D, heads, build);
  o_proj_ = child_linear(*attention, "o_proj", heads, D, build);
  auto feed_forward = register_module("feed_forward", std::make_shared<torch::nn::Module>());
  gate_proj_ = child_linear(*feed_forward, "gate_proj", D, F, build);
  up_proj_ = child_linear(*feed_forward, "up_proj", D, F, build);
  down_proj_ = child_linear(*feed_forward, "down_proj", F, D, build);
}

at::Tensor VisionLayer::forward(const at::Tensor& x_PD, const Rotation& rotation,
                                const Packing& packing, bool recompute_attention) const {
  const at::Tensor normed = attention_norm_->forward(x_PD);
  const auto heads = [&](const at::Tensor& y) { return y.view({y.size(0), -1, head_dim_}); };
  const at::Tensor q_PNH = heads(q_proj_->forward(normed));
  const at::Tensor k_PNH = heads(k_proj_->forward(normed));
  const at::Tensor v_PNH = heads(v_proj_->forward(normed));
  const Segment attend = [k_PNH, v_PNH, rotation, packing](const at::Tensor& q) {
    return block_attention(rotate(q, rotation), rotate(k_PNH, rotation), v_PNH, packing);
  };
  const at::Tensor attended =
      x_PD + o_proj_->forward(recompute_attention ? recomputed(attend, q_PNH, {k_PNH, v_PNH})
                                                  : attend(q_PNH));
  const at::Tensor inner = ffn_norm_->forward(attended);
  const at::Tensor gate = gate_proj_->forward(inner);
  const at::Tensor up = up_proj_->forward(inner);
  const at::Tensor hidden =
      activation_ == VisionConfig::Activation::kGelu ? at::gelu(gate) * up : swiglu(gate, up);
  return attended + down_proj_->forward(hidden);
}

VisionTower::VisionTower(const VisionConfig& config, int64_t feature_layer, const Build& build)
    : config_(config),
      depth_(feature_depth(feature_layer, config.num_layers)),
      frequencies_(inverse_frequencies(config.rope_theta, config.head_dim).to(build.device)) {
  auto conv = register_module("patch_conv", std::make_shared<torch::nn::Module>());
  patch_conv_ = conv->register_parameter(
      "weight",
      build.empty({config.hidden_size, config.num_channels, config.patch_size, config.patch_size}));
  ln_pre_ = register_module("ln_pre",
                            std::make_shared<RmsNorm>(config.hidden_size, kVisionNormEps, build));
  auto transformer = register_module("transformer", std::make_shared<torch::nn::Module>());
  auto list = transformer->register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back(
        list->register_module(std::to_string(i), std::make_shared<VisionLayer>(config, build)));
  }
}

std::pair<at::Tensor, PatchGrid> VisionTower::patches(
    const std::vector<at::Tensor>& images_CHW) const {
  const int64_t side = config_.patch_size;
  std::vector<at::Tensor> rows;
  PatchGrid grid;
  std::vector<int64_t> lengths;
  for (const at::Tensor& image : images_CHW) {
    TORCH_CHECK(image.dim() == 3 && image.size(1) % side == 0 && image.size(2) % side == 0,
                "an image is [C, H, W] with sides that are multiples of ", side, ", got ",
                image.sizes());
    const int64_t h = image.size(1) / side;
    const int64_t w = image.size(2) / side;
    // A convolution whose stride is its kernel is a matrix product over patches laid out as rows.
    rows.push_back(to_device(image, patch_conv_.device())
                       .to(patch_conv_.scalar_type())

                       .view({image.size(0), h, side, w, side})
                       .permute({1, 3, 0, 2, 4})
                       .reshape({h * w, -1}));
    grid.sizes.emplace_back(h, w);
    lengths.push_back(h * w);
  }
  grid.packing = Packing(std::move(lengths)).to(patch_conv_.device());
  const at::Tensor embedded = times_transposed(at::cat(rows), patch_conv_.flatten(1));
  return {ln_pre_->forward(embedded), grid};
}

Rotation VisionTower::rotation(const PatchGrid& grid, at::ScalarType dtype) const {
  std::vector<at::Tensor> cos, sin;
  for (const auto& [rows, cols] : grid.sizes) {
    const Rotation one = axial_rotation(rows, cols, frequencies_, dtype);
    cos.push_back(one.cos);
    sin.push_back(one.sin);
  }
  return {at::cat(cos), at::cat(sin)};
}

at::Tensor VisionTower::forward(at::Tensor x_PD, const PatchGrid& grid) const {
  const Rotation turn = rotation(grid, x_PD.scalar_type());
  const LayerStack stack{
      [this, turn, grid](const at::Tensor& x, size_t i) { return layer(i, x, turn, grid); },
      [this](size_t i) { return layers_[i]->parameters(); }};
  return run_layers(stack, std::move(x_PD), 0, depth_, recompute_);
}

Projector::Projector(const ModelConfig& config, const Build& build) : config_(config.projector) {
  const int64_t vision = config.vision->hidden_size;
  const int64_t text = config.text.hidden_size;
  const int64_t merge = config_.spatial_merge_size;
  norm_ =
      register_module("norm", std::make_shared<RmsNorm>(vision, config.text.rms_norm_eps, build));
  auto merger = register_module("patch_merger", std::make_shared<torch::nn::Module>());
  merging_layer_ = child_linear(*merger, "merging_layer", vision * merge * merge, vision, build);
  linear_1_ = child_linear(*this, "linear_1", vision, text, build, config_.bias);
  linear_2_ = child_linear(*this, "linear_2", text, text, build, config_.bias);
}

at::Tensor Projector::merge_patches(const at::Tensor& x_PD, const PatchGrid& grid) const {
  const int64_t merge = config_.spatial_merge_size;
  const int64_t D = x_PD.size(1);
  std::vector<at::Tensor> merged;
  int64_t start = 0;
  for (const auto& [rows, cols] : grid.sizes) {
    TORCH_CHECK(rows % merge == 0 && cols % merge == 0, "an image of ", rows, " x ", cols,
                " patches does not divide into ", merge, " x ", merge);
    merged.push_back(x_PD.narrow(0, start, rows * cols)
                         .view({rows / merge, merge, cols / merge, merge, D})
                         .permute({0, 2, 4, 1, 3})
                         .reshape({rows * cols / (merge * merge), D * merge * merge}));
    start += rows * cols;
  }
  return at::cat(merged);
}

at::Tensor Projector::forward(const at::Tensor& x_PD, const PatchGrid& grid) const {
  const at::Tensor merged = merging_layer_->forward(merge_patches(norm_->forward(x_PD), grid));
  const at::Tensor hidden = linear_1_->forward(merged);
  switch (config_.hidden_act) {
    case ProjectorConfig::Activation::kGelu:
      return linear_2_->forward(at::gelu(hidden));
    case ProjectorConfig::Activation::kGeluTanh:
      return linear_2_->forward(at::gelu(hidden, "tanh"));
    case ProjectorConfig::Activation::kSilu:
      return linear_2_->forward(at::silu(hidden));
    case ProjectorConfig::Activation::kRelu:
      return linear_2_->forward(at::relu(hidden));
  }
  TORCH_CHECK(false, "unknown projector activation");
}

}  // namespace trestle
