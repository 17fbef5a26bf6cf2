// The linear layer of every tower, with Megatron's names. Built by the decoder, the vision tower
// and the projector; adapters are attached by peft/.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "linear/adapter.h"
#include "linear/base_shards.h"
#include "linear/fp8_weight.h"
#include "linear/fused.h"
#include "linear/panel_weight.h"
#include "linear/projection.h"
#include "linear/quantized.h"
#include "parallel/model_groups.h"
#include "parallel/stages.h"

namespace trestle {

/// dtype, device and share of the parameters a module makes. They are left uninitialised: a
/// checkpoint or `Ministral3::initialize` fills them.
struct Build {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  /// 4 or 8: projections hold their weight as a QuantizedWeight; the rest is of dtype.
  int64_t weight_bits = 16;
  /// Projections have no weight yet: the loader gives each `hold()` where the checkpoint has it in
  /// FP8, else `allocate()`.
  bool keep_fp8 = false;
  /// Projections and the vocabulary hold their weight in panels of this form (what sees pictures in
  /// bf16), on the CPU and on one rank: for inference.
  std::optional<PanelForm> panels = {};
  /// Whose ranks hold the rest of what this one has a part of.
  ModelGroups groups = {};
  /// Ranks with the same weights, each of which keeps a part of the decoder layers' frozen matrices
  /// (BaseShards).
  Group base = {};
  /// Projections have no weight until allocate().
  bool later = false;
  /// What is made of the model; all of it where nothing is said.
  std::optional<Stage> stage = {};

  /// The same parameters of all stages, without values.
  Build shapes_of_whole() const;
  at::Tensor empty(at::IntArrayRef shape) const;
  /// This tensor rank's share of a parameter of that shape.
  at::Tensor empty_share(at::IntArrayRef shape, Split split) const;
};

/// A tensor made from others, and kept until one of those has changed as far as torch counts
/// versions. Not for several threads at once.
class Derived {
 public:
  /// `make()`, or what is kept where `sources` are the same tensors with the same values; the
  /// result is kept only with `keep`.
  template <class Make>
  const at::Tensor& get(const std::vector<at::Tensor>& sources, bool keep, const Make& make) {
    std::vector<Stamp> stamps = keep ? stamps_of(sources) : std::vector<Stamp>();
    if (stamps.empty() || stamps != stamps_) {
      stamps_.clear();
      value_ = make();
      stamps_ = std::move(stamps);
    }
    return value_;
  }

 private:
  struct Stamp {
    const void* data;
    int64_t version;
    bool operator==(const Stamp&) const = default;
  };
  /// None where torch does not count versions, as for tensors made in inference mode.
  static std::vector<Stamp> stamps_of(const std::vector<at::Tensor>& sources);

  std::vector<Stamp> stamps_;
  at::Tensor value_;
};

/// y = x W^T + b, weight [out, in]. Over several tensor ranks each holds its share of a weight that
/// `split` cuts: by rows x is the same on all of them and y is this rank's columns; by columns x is
/// its columns and y the same on all (Shoeybi et al. 2019). `in`, `out` and `layout` are the whole
/// weight's. A weight that is held quantised, in FP8 or in panels gives gradients to x
/// alone; `weight` then says its shape and dtype, on the meta device.
class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in, int64_t out, const Build& build, bool bias = false,
         FusedLayout layout = FusedLayout::plain(), Split split = Split::kReplicated);
  at::Tensor forward(const ProjectionInput& input) const;

  void attach(std::shared_ptr<Adapter> adapter);
  /// Of W + s B A, [out] in fp32: what a DoRA adapter divides by. Kept while no gradients are asked
  /// for; in training only the part of the frozen weight is.
  const at::Tensor& row_norms() const;
  /// Adds the adapter to the weight (in fp32, rounded once) and removes it; one in FP8 is widened
  /// first. Not where the weight is quantised or in panels.
  void merge_adapter();
  const std::shared_ptr<Adapter>& adapter() const { return adapter_; }
  /// Of this rank's share.
  const FusedLayout& layout() const { return layout_; }
  Split split() const { return split_; }
  const ModelGroups& groups() const { return groups_; }
  /// The weight, or the values of the held one in its dtype, which are made anew each time.
  at::Tensor dense_weight() const;
  /// fn(first row, rows) for the same, as few rows at a time as one tile of a held weight has.
  void for_dense_rows(const std::function<void(int64_t, const at::Tensor&)>& fn) const;
  /// Where its weight and what is held in its place are; an adapter's pairs too, but of a model
  /// that has no values.
  at::Device device() const { return device_; }
  /// Null where the weight is held as it is, or in another form, or shared out.
  QuantizedWeight* quantized() { return quantized_ ? &*quantized_ : nullptr; }
  /// Likewise.
  const Fp8Weight* fp8() const { return fp8_ ? &*fp8_ : nullptr; }
  /// Likewise.
  PanelWeight* panels() { return panels_ ? &*panels_ : nullptr; }
  /// Of Build::panels, also of a model that has no values.
  std::optional<PanelForm> panel_form() const { return panel_form_; }
  /// Holds the weight in FP8, on this projection's device.
  void hold(const Fp8Weight& fp8);
  /// Of Build::panels: holds these instead, which have the weight's shape.
  void hold(const PanelWeight& panels);
  /// Holds the weight as it is, uninitialised.
  void allocate();
  /// Of a weight in FP8: holds its values instead, which can be written to.
  void widen();
  /// Whether Build::keep_fp8 says so.
  bool keeps_fp8() const { return keeps_fp8_; }
  /// The tensors of its matrix, as it holds them.
  std::vector<at::Tensor> held() const { return matrix().parts.tensors; }
  /// The matrix is frozen from now on and goes: `shards` has it, as the tensors of `layer` from
  /// `first` on.
  void share_out(std::shared_ptr<BaseShards> shards, int64_t layer, size_t first);
  /// Not on the meta device.
  bool has_values() const { return is_held() || !weight.is_meta(); }

  at::Tensor weight, bias;

 protected:
  /// Of an input that is whole on every tensor rank, where the weight is cut by rows.
  at::Tensor forward_entered(const ProjectionInput& input) const;
  bool is_cut_by_rows() const { return split_ == Split::kRows || split_ == Split::kHalvedRows; }

 private:
  /// Where ranks share the matrix out.
  struct Shared {
    HeldMatrix::Form form;
    int64_t size;
    std::shared_ptr<BaseShards> shards;
    int64_t layer;
    size_t first, count;
  };

  at::Tensor product(const at::Tensor& x) const;
  at::Tensor product_and_bias(const at::Tensor& x) const;
  at::Tensor by_dora(const ProjectionInput& input) const;
  HeldMatrix matrix() const;
  bool is_held() const { return quantized_ || fp8_ || panels_ || shared_; }
  void set_weight(at::Tensor value);

  FusedLayout layout_;
  Split split_;
  ModelGroups groups_;
  at::Device device_;
  std::optional<QuantizedWeight> quantized_;
  std::optional<Fp8Weight> fp8_;
  std::optional<PanelWeight> panels_;
  std::optional<PanelForm> panel_form_;
  std::optional<Shared> shared_;
  bool keeps_fp8_;
  std::shared_ptr<Adapter> adapter_;
  mutable Derived row_squares_, row_norms_;
};

/// RMSNorm and a projection under one name, as Transformer Engine's LayerNormLinear has it:
/// `layer_norm_weight` [in] beside `weight`.
class NormLinear : public Linear {
 public:
  NormLinear(int64_t in, int64_t out, double eps, const Build& build, FusedLayout layout,
             Split split = Split::kReplicated);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor layer_norm_weight;

 private:
  double eps_;
};

}  // namespace trestle
