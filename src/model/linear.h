// The linear layer of every tower, with Megatron's names, and the low-rank adapter that may live
// inside it. Built by the decoder, the vision tower and the projector; adapters are attached by
// peft/.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/fused.h"

namespace trestle {

/// dtype and device of the parameters a module makes. They are left uninitialised: a checkpoint or
/// `Ministral3::initialize` fills them.
struct Build {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;

  at::Tensor empty(at::IntArrayRef shape) const;
};

/// One low-rank pair: x -> x A^T B^T. `linear_in.weight` A is [rank, in], `linear_out.weight` B is
/// [out, rank].
class LowRank : public torch::nn::Module {
 public:
  LowRank(int64_t in, int64_t out, int64_t rank, const Build& build);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor a, b;
};

/// LoRA (Hu et al. 2021) inside a projection: y += (alpha / rank) B A dropout(x).
/// In Megatron's form one pair adapts the fused projection (linear_in.weight, linear_out.weight);
/// in PEFT's form each adapted part has a pair of its own (q_proj.linear_in.weight, ...).
class Adapter : public torch::nn::Module {
 public:
  /// `parts` empty: Megatron's form. Else a subset of layout.parts().
  Adapter(int64_t in, int64_t out, const FusedLayout& layout, const std::vector<std::string>& parts,
          int64_t rank, double alpha, double dropout, const Build& build);
  /// What is added to the projection's output: [T, in] -> [T, out].
  at::Tensor forward(const at::Tensor& x) const;
  /// scale * B A in the fused row order, [out, in] in fp32: what merging adds to the weight.
  at::Tensor delta_weight() const;
  double scale() const { return scale_; }
  double dropout() const { return dropout_; }
  /// The pair that adapts the whole fused projection, or null in PEFT's form.
  const std::shared_ptr<LowRank>& whole() const { return whole_; }
  /// In the order of layout.parts(); null where a part is not adapted. Empty in Megatron's form.
  const std::vector<std::shared_ptr<LowRank>>& pairs() const { return pairs_; }

 private:
  FusedLayout layout_;
  int64_t out_;
  double scale_, dropout_;
  std::shared_ptr<LowRank> whole_;
  std::vector<std::shared_ptr<LowRank>> pairs_;
};

/// y = x W^T + b, weight [out, in].
class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in, int64_t out, const Build& build, bool bias = false,
         FusedLayout layout = FusedLayout::plain());
  at::Tensor forward(const at::Tensor& x) const;

  void attach(std::shared_ptr<Adapter> adapter);
  /// Adds the adapter to the weight (in fp32, rounded once) and removes it.
  void merge_adapter();
  const std::shared_ptr<Adapter>& adapter() const { return adapter_; }
  const FusedLayout& layout() const { return layout_; }

  at::Tensor weight, bias;

 private:
  FusedLayout layout_;
  std::shared_ptr<Adapter> adapter_;
};

/// RMSNorm and a projection under one name, as Transformer Engine's LayerNormLinear has it:
/// `layer_norm_weight` [in] beside `weight`.
class NormLinear : public Linear {
 public:
  NormLinear(int64_t in, int64_t out, double eps, const Build& build, FusedLayout layout);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor layer_norm_weight;

 private:
  double eps_;
};

}  // namespace trestle
