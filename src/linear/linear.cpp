#include "linear/linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "base/error.h"
#include "kernels/matrix_product.h"
#include "kernels/rms_norm.h"

namespace trestle {

Build Build::shapes_of_whole() const {
  Build whole{.dtype = dtype, .device = at::kMeta};
  whole.groups = groups;
  return whole;
}

at::Tensor Build::empty(at::IntArrayRef shape) const {
  return at::empty(shape, at::TensorOptions().dtype(dtype).device(device));
}

at::Tensor Build::empty_share(at::IntArrayRef shape, Split split) const {
  return empty(share_sizes(shape, split, groups.tensor.size()));
}

std::vector<Derived::Stamp> Derived::stamps_of(const std::vector<at::Tensor>& sources) {
  std::vector<Stamp> stamps;
  for (const at::Tensor& source : sources) {
    if (source.is_inference()) return {};
    stamps.push_back({source.const_data_ptr(), source._version()});
  }
  return stamps;
}

namespace {

// Ranks that cut a block would quantise it otherwise than one rank does.
void require_whole_blocks(int64_t in, int64_t share, int64_t ranks) {
  if (share == in || share % QuantizedWeight::kBlock == 0) return;
  user_error(
      "model.tensor_model_parallel_size={} leaves a rank {} of {} columns, which cuts the blocks "
      "of {} of a quantised base; take fewer tensor ranks, or peft.base_bits=16",
      ranks, share, in, QuantizedWeight::kBlock);
}

}  // namespace

Linear::Linear(int64_t in, int64_t out, const Build& build, bool with_bias, FusedLayout layout,
               Split split)
    : layout_(layout.share(split == Split::kReplicated ? 1 : build.groups.tensor.size())),
      split_(split),
      groups_(build.groups),
      device_(build.device),
      keeps_fp8_(build.keep_fp8) {
  const std::vector<int64_t> sizes = share_sizes({out, in}, split, groups_.tensor.size());
  TORCH_CHECK(!with_bias || split == Split::kReplicated, "a projection that is cut has no bias");
  Build values = build;
  if (build.weight_bits < 16) {
    require_whole_blocks(in, sizes[1], groups_.tensor.size());
    quantized_.emplace(sizes[0], sizes[1], build.weight_bits, build.device);
    values.device = at::kMeta;
  }
  if (build.panels) {
    TORCH_CHECK(groups_.tensor.is_one() && build.weight_bits == 16 && !build.keep_fp8,
                "panels are of a whole weight and of no other form");
    if (!build.device.is_meta()) panels_.emplace(sizes[0], sizes[1], *build.panels);
    panel_form_ = build.panels;
    values.device = at::kMeta;
  }
  if (build.keep_fp8 || build.later) values.device = at::kMeta;
  weight = register_parameter("weight", values.empty(sizes));
  if (with_bias) bias = register_parameter("bias", build.empty({out}));
}

at::Tensor Linear::product(const at::Tensor& x) const {
  if (shared_) return projected(x, matrix(), {}, {});
  if (fp8_) return fp8_linear(x, *fp8_);
  if (panels_) return panel_linear(x, *panels_);
  return quantized_ ? quantized_linear(x, *quantized_) : times_transposed(x, weight);
}

at::Tensor Linear::product_and_bias(const at::Tensor& x) const {
  if (!is_held()) return times_transposed(x, weight, bias);
  return bias.defined() ? product(x) + bias : product(x);
}

at::Tensor Linear::dense_weight() const {
  if (!is_held()) return weight;
  return dense(matrix(), {0, weight.size(0)}, {0, weight.size(1)}, weight.scalar_type());
}

void Linear::for_dense_rows(const std::function<void(int64_t, const at::Tensor&)>& fn) const {
  const HeldMatrix held = matrix();
  if (held.form == HeldMatrix::Form::kDense) return fn(0, held.parts.tensors.front());
  const int64_t rows = weight.size(0);
  const IndexRange all{0, weight.size(1)};
  const int64_t row_bytes = std::max<int64_t>(1, all.count * weight.element_size());
  // Whole blocks of what an adapter takes at a time, so that its sums are those of the whole.
  const int64_t most = std::max<int64_t>(1, kTileBytes / row_bytes / kAdapterRows) * kAdapterRows;
  for (int64_t first = 0; first < rows; first += most) {
    const IndexRange range{first, std::min(most, rows - first)};
    fn(first, dense(held, range, all, weight.scalar_type()));
  }
}

void Linear::set_weight(at::Tensor value) {
  value.requires_grad_(weight.requires_grad());
  parameters_["weight"] = value;  // what named_parameters() gives
  weight = std::move(value);
}

void Linear::hold(const Fp8Weight& fp8) {
  TORCH_CHECK(!quantized_ && fp8.rows() == weight.size(0) && fp8.columns() == weight.size(1),
              "a weight in FP8 has the shape of its projection");
  set_weight(at::empty_like(weight, weight.options().device(at::kMeta)));
  fp8_ = fp8.to(device_);
}

void Linear::hold(const PanelWeight& panels) {
  TORCH_CHECK(panel_form_ == panels.form() && panels.rows() == weight.size(0) &&
                  panels.columns() == weight.size(1),
              "panels have the form and shape of their projection");
  panels_ = panels;
}

void Linear::allocate() {
  TORCH_CHECK(!is_held(), "this projection holds its weight in another form");
  set_weight(at::empty_like(weight, weight.options().device(device_)));
}

void Linear::widen() {
  if (!fp8_) return;
  set_weight(dense_weight());
  fp8_.reset();
}

HeldMatrix Linear::matrix() const {
  if (shared_) {
    auto gather = [shared = *shared_] {
      const std::vector<at::Tensor>& all = shared.shards->tensors(shared.layer);
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(shared.first);
      return std::vector<at::Tensor>(first, first + static_cast<std::ptrdiff_t>(shared.count));
    };
    return {shared_->form, {gather(), shared_->size}, gather};
  }
  if (fp8_) return {HeldMatrix::Form::kFp8, fp8_->parts(), {}};
  if (quantized_) return {HeldMatrix::Form::kQuantized, quantized_->parts(), {}};
  if (panels_) return {HeldMatrix::Form::kPanels, panels_->parts(), {}};
  return {HeldMatrix::Form::kDense, {{weight}}, {}};
}

void Linear::share_out(std::shared_ptr<BaseShards> shards, int64_t layer, size_t first) {
  const HeldMatrix held = matrix();
  shared_ = {held.form, held.parts.size, std::move(shards),
             layer,     first,           held.parts.tensors.size()};
  weight.requires_grad_(false);
  if (!weight.is_meta()) set_weight(at::empty_like(weight, weight.options().device(at::kMeta)));
  quantized_.reset();
  fp8_.reset();
  panels_.reset();
}

at::Tensor Linear::forward(const ProjectionInput& input) const {
  TORCH_CHECK(!is_cut_by_rows() || groups_.tensor.is_one(), "NormLinear's input is entered");
  const at::Tensor y = forward_entered(input);
  return split_ == Split::kColumns ? groups_.leave(y, groups_.spreads(is_training())) : y;
}

at::Tensor Linear::forward_entered(const ProjectionInput& input) const {
  if (adapter_ && adapter_->is_dora()) return by_dora(input);
  if (adapter_) return projected(input, matrix(), bias, adapter_->update());
  // A frozen weight keeps nothing of x.
  const bool keeps_x = !is_held() && weight.requires_grad() && at::GradMode::is_enabled();
  return keeps_x && input.remake ? projected(input, matrix(), bias, {}) : product_and_bias(input.x);
}

at::Tensor Linear::by_dora(const ProjectionInput& input) const {
  const at::Tensor dropped = adapter_->dropped(input.x);
  const bool is_dropped = !dropped.is_same(input.x);
  LowRankUpdate update = adapter_->update();
  update.dropout = 0;  // W x has it too
  at::Tensor y = projected(is_dropped ? ProjectionInput(dropped) : input, matrix(), {}, update);
  // The gain in fp32, so that bf16 rounds once.
  y = (y * adapter_->gain(row_norms())).to(input.x.scalar_type());
  // Dropout leaves W x itself alone, as in peft and Megatron Bridge:
  // W x + (g - 1) W d + g s B A d = g (W + s B A) d + W (x - d).
  if (is_dropped) y = y + product(input.x - dropped);
  return bias.defined() ? y + bias : y;
}

const at::Tensor& Linear::row_norms() const {
  // Fused optimizer kernels change what they train without counting a version.
  const bool training = at::GradMode::is_enabled();
  // What is kept serves training too, which takes no tensor made in inference mode.
  const c10::InferenceMode normal(false);
  const at::Tensor& held = shared_      ? shared_->shards->part(shared_->layer)
                           : fp8_       ? fp8_->codes()
                           : quantized_ ? quantized_->codes()
                           : panels_    ? panels_->panels()
                                        : weight;
  const at::Tensor& squares = row_squares_.get({held}, !(training && weight.requires_grad()), [&] {
    std::vector<at::Tensor> sums;
    for_dense_rows([&](int64_t, const at::Tensor& rows) { sums.push_back(square_rows(rows)); });
    return at::cat(sums);
  });
  std::vector<at::Tensor> sources = adapter_->low_rank_weights();
  sources.push_back(held);
  return row_norms_.get(sources, !training, [&] {
    std::vector<at::Tensor> norms;
    for_dense_rows([&](int64_t first, const at::Tensor& rows) {
      norms.push_back(adapter_->row_norms(rows, squares.narrow(0, first, rows.size(0)), first,
                                          split_ == Split::kColumns ? groups_.tensor : Group()));
    });
    return at::cat(norms);
  });
}

void Linear::attach(std::shared_ptr<Adapter> adapter) {
  TORCH_CHECK(!adapter_, "this projection has an adapter already");
  adapter_ = register_module("adapter", std::move(adapter));
}

void Linear::merge_adapter() {
  if (!adapter_) return;
  TORCH_CHECK(groups_.tensor.is_one(), "an adapter is merged into a whole weight");
  TORCH_CHECK(!quantized_ && !panels_ && !shared_,
              "an adapter is merged into the original weight, not the quantised one or a part");
  const at::NoGradGuard no_grad;
  widen();
  weight.copy_(adapter_->merged(weight));
  unregister_module("adapter");
  adapter_ = nullptr;
}

NormLinear::NormLinear(int64_t in, int64_t out, double eps, const Build& build, FusedLayout layout,
                       Split split)
    : Linear(in, out, build, false, layout, split), eps_(eps) {
  layer_norm_weight = register_parameter("layer_norm_weight", build.empty({in}));
}

at::Tensor NormLinear::forward(const at::Tensor& x) const {
  const ModelGroups& ranks = groups();
  if (!is_cut_by_rows() || !ranks.spreads(is_training())) {
    // The norm of what is whole everywhere, whose gradient is then a part of the sum: that of the
    // input is summed once behind the norm, and the weight's with all that ranks have whole.
    const at::Tensor entered = is_cut_by_rows() ? ranks.enter(x, false) : x;
    return forward_entered({rms_norm(entered, layer_norm_weight, eps_),
                            {entered, layer_norm_weight},
                            [eps = eps_](const std::vector<at::Tensor>& from) {
                              return rms_norm(from[0], from[1], eps);
                            }});
  }
  // A rank norms and keeps its own tokens, and the backward pass gathers them again.
  return forward_entered({ranks.enter(rms_norm(x, layer_norm_weight, eps_), true),
                          {x, layer_norm_weight},
                          [eps = eps_, ranks](const std::vector<at::Tensor>& from) {
                            return ranks.tensor.all_gather(rms_norm(from[0], from[1], eps));
                          }});
}

}  // namespace trestle
