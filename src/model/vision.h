// The Pixtral vision tower and the projector that turns its patches into text embeddings, with
// Hugging Face's names (Megatron leaves both untouched).
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "model/attention.h"
#include "model/config.h"
#include "model/layers.h"
#include "model/recompute.h"
#include "model/rope.h"

namespace trestle {

/// Rows and columns of patches of each image, and all patches as one list of P.
struct PatchGrid {
  std::vector<std::pair<int64_t, int64_t>> sizes;
  Packing packing;
};

class VisionLayer : public torch::nn::Module {
 public:
  VisionLayer(const VisionConfig& config, const Build& build);
  /// `recompute_attention`: attention itself is computed again in the backward pass.
  at::Tensor forward(const at::Tensor& x_PD, const Rotation& rotation, const Packing& packing,
                     bool recompute_attention = false) const;

 private:
  int64_t head_dim_;
  VisionConfig::Activation activation_;
  std::shared_ptr<RmsNorm> attention_norm_, ffn_norm_;
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, o_proj_, gate_proj_, up_proj_, down_proj_;
};

class VisionTower : public torch::nn::Module {
 public:
  VisionTower(const VisionConfig& config, int64_t feature_layer, const Build& build);

  /// Images [C, H, W], sides multiples of the patch size -> normed patch embeddings [P, D] and
  /// their grid.
  std::pair<at::Tensor, PatchGrid> patches(const std::vector<at::Tensor>& images_CHW) const;
  Rotation rotation(const PatchGrid& grid, at::ScalarType dtype) const;
  /// The hidden states that `vision_feature_layer` names, as set_recompute() says where gradients
  /// are made: [P, D].
  at::Tensor forward(at::Tensor x_PD, const PatchGrid& grid) const;
  at::Tensor layer(size_t index, const at::Tensor& x_PD, const Rotation& rotation,
                   const PatchGrid& grid) const {
    return layers_[index]->forward(x_PD, rotation, grid.packing,
                                   recompute_.granularity == Recompute::Granularity::kSelective);
  }
  void set_recompute(const Recompute& recompute) { recompute_ = recompute; }
  size_t num_layers() const { return layers_.size(); }
  /// Layers that run: those behind the feature layer would compute what nobody reads.
  size_t depth() const { return depth_; }

 private:
  VisionConfig config_;
  Recompute recompute_;
  size_t depth_;
  at::Tensor frequencies_;  // of both axes
  at::Tensor patch_conv_;
  std::shared_ptr<RmsNorm> ln_pre_;
  std::vector<std::shared_ptr<VisionLayer>> layers_;
};

class Projector : public torch::nn::Module {
 public:
  Projector(const ModelConfig& config, const Build& build);
  /// [P, D] -> one text embedding per merge x merge patches, [tokens, text D], row-major, image
  /// after image.
  at::Tensor forward(const at::Tensor& x_PD, const PatchGrid& grid) const;

  /// Gathers merge x merge neighbours: feature index = channel * merge^2 + y * merge + x (torch
  /// unfold's order).
  at::Tensor merge_patches(const at::Tensor& x_PD, const PatchGrid& grid) const;

 private:
  ProjectorConfig config_;
  std::shared_ptr<RmsNorm> norm_;
  std::shared_ptr<Linear> merging_layer_, linear_1_, linear_2_;
};

}  // namespace trestle
