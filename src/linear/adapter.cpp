#include "linear/adapter.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/low_rank_norms.h"

namespace trestle {

namespace {

// fn(first row, number of rows) for blocks that cover `rows`.
template <class Function>
void for_row_blocks(int64_t rows, const Function& fn) {
  for (int64_t start = 0; start < rows; start += kAdapterRows) {
    fn(start, std::min(kAdapterRows, rows - start));
  }
}

}  // namespace

at::Tensor square_rows(const at::Tensor& weight) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sums;
  for_row_blocks(weight.size(0), [&](int64_t start, int64_t count) {
    sums.push_back(weight.narrow(0, start, count).to(at::kDouble).square().sum(1));
  });
  return at::cat(sums);
}

LowRank::LowRank(int64_t in, int64_t out, const AdapterSpec::Pair& pair, bool dora,
                 const at::TensorOptions& options)
    : alpha_(pair.alpha) {
  // Submodules only for their names: Megatron's checkpoints say linear_in.weight and
  // linear_out.weight.
  auto linear_in = register_module("linear_in", std::make_shared<torch::nn::Module>());
  auto linear_out = register_module("linear_out", std::make_shared<torch::nn::Module>());
  a = linear_in->register_parameter("weight", at::empty({pair.rank, in}, options));
  b = linear_out->register_parameter("weight", at::empty({out, pair.rank}, options));
  if (dora) magnitude = register_parameter("weight_magnitude", at::empty({out}, options));
}

Adapter::Adapter(int64_t in, int64_t out, const FusedLayout& layout, const AdapterSpec& spec,
                 const at::TensorOptions& options)
    : layout_(layout), out_(out), dropout_(spec.dropout), dora_(spec.dora) {
  TORCH_CHECK(!spec.pairs.empty(), "an adapter has at least one pair");
  if (spec.pairs.front().part.empty()) {
    whole_ = std::make_shared<LowRank>(in, out, spec.pairs.front(), dora_, options);
    // Megatron has no level between adapter and linear_in.
    for (const auto& child : whole_->named_children()) register_module(child.key(), child.value());
    if (dora_) register_parameter("weight_magnitude", whole_->magnitude);
    return;
  }
  const std::vector<std::string> all = layout.parts();
  for (size_t i = 0; i < all.size(); ++i) {
    const auto pair = std::ranges::find(spec.pairs, all[i], &AdapterSpec::Pair::part);
    pairs_.push_back(
        pair == spec.pairs.end()
            ? nullptr
            : register_module(all[i], std::make_shared<LowRank>(in, layout.part_size(i, out), *pair,
                                                                dora_, options)));
  }
}

at::Tensor Adapter::dropped(const at::Tensor& x) const {
  return is_training() && dropout_ > 0 ? at::dropout(x, dropout_, true) : x;
}

LowRankUpdate Adapter::update() const {
  LowRankUpdate update{layout_, out_, {}, low_rank_weights(), is_training() ? dropout_ : 0};
  if (whole_) update.scales.emplace_back(whole_->scale());
  for (const auto& pair : pairs_) {
    update.scales.push_back(pair ? std::optional(pair->scale()) : std::nullopt);
  }
  return update;
}

std::vector<at::Tensor> Adapter::low_rank_weights() const {
  if (whole_) return {whole_->a, whole_->b};
  std::vector<at::Tensor> weights;
  for (const auto& pair : pairs_) {
    if (pair) weights.insert(weights.end(), {pair->a, pair->b});
  }
  return weights;
}

// All pairs as a single one over the fused rows, in fp32, the scale in b: the A's one under the
// other, and each B in the columns of its own A.
Adapter::Factors Adapter::factors() const {
  if (whole_) return {whole_->a.to(at::kFloat), whole_->b.to(at::kFloat) * whole_->scale()};
  std::vector<at::Tensor> all_a, all_b;
  int64_t ranks = 0;
  for (const auto& pair : pairs_) {
    if (!pair) continue;
    all_a.push_back(pair->a.to(at::kFloat));
    ranks += pair->rank();
  }
  int64_t column = 0;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    at::Tensor b = at::zeros({layout_.part_size(i, out_), ranks}, all_a.front().options());
    if (const auto& pair = pairs_[i]) {
      b.narrow(1, column, pair->rank()).copy_(pair->b.to(at::kFloat) * pair->scale());
      column += pair->rank();
    }
    all_b.push_back(b);
  }
  return {at::cat(all_a), layout_.fuse(all_b, 0)};
}

at::Tensor Adapter::row_norms(const at::Tensor& weight, const at::Tensor& squares, int64_t first,
                              const Group& columns) const {
  const at::NoGradGuard no_grad;
  const auto [a, b] = factors();
  return low_rank_norms(
      weight, squares, {a, b.narrow(0, first, weight.size(0)), low_rank_weights()[0].scalar_type()},
      kAdapterRows, columns);
}

at::Tensor Adapter::gain(const at::Tensor& row_norms, int64_t first) const {
  const auto these = [&](const at::Tensor& all) { return all.narrow(0, first, row_norms.size(0)); };
  if (whole_) return these(whole_->magnitude).to(at::kFloat) / row_norms;
  std::vector<at::Tensor> magnitudes, adapted;
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const int64_t rows = layout_.part_size(i, out_);
    magnitudes.push_back(pairs_[i] ? pairs_[i]->magnitude.to(at::kFloat)
                                   : at::ones({rows}, row_norms.options()));
    adapted.push_back(at::full({rows}, pairs_[i] != nullptr, row_norms.options().dtype(at::kBool)));
  }
  const at::Tensor gains = these(layout_.fuse(magnitudes, 0)) / row_norms;
  return at::where(these(layout_.fuse(adapted, 0)), gains, 1);
}

at::Tensor Adapter::merged(const at::Tensor& weight, int64_t first) const {
  const at::NoGradGuard no_grad;
  const auto [a, b] = factors();
  at::Tensor gains;
  if (dora_) gains = gain(row_norms(weight, square_rows(weight), first), first).unsqueeze(1);
  at::Tensor result = at::empty_like(weight);
  for_row_blocks(weight.size(0), [&, a = a, b = b](int64_t start, int64_t count) {
    at::Tensor rows = at::mm(b.narrow(0, first + start, count), a);
    rows.add_(weight.narrow(0, start, count));
    if (dora_) rows.mul_(gains.narrow(0, start, count));
    result.narrow(0, start, count).copy_(rows);
  });
  return result;
}

void Adapter::set_magnitude(const at::Tensor& norms) {
  const at::NoGradGuard no_grad;
  if (whole_) {
    whole_->magnitude.copy_(norms);
    return;
  }
  const std::vector<at::Tensor> parts = layout_.split(norms, 0);
  for (size_t i = 0; i < pairs_.size(); ++i) {
    if (pairs_[i]) pairs_[i]->magnitude.copy_(parts[i]);
  }
}

bool Adapter::changes_nothing(const at::Tensor& weight, int64_t first) const {
  const at::NoGradGuard no_grad;
  const auto is_zero = [](const at::Tensor& tensor) { return !tensor.any().item<bool>(); };
  const auto does_nothing = [&](const std::shared_ptr<LowRank>& pair) {
    return !pair || is_zero(pair->a) || is_zero(pair->b);
  };
  const bool no_delta = whole_ ? does_nothing(whole_) : std::ranges::all_of(pairs_, does_nothing);
  if (!no_delta || !dora_) return no_delta;
  // What a start leaves between m and our norms: m's own rounding, or another order of summation.
  const bool half = low_rank_weights().front().element_size() < 4;
  const double tolerance = half ? 1.0 / 128 : 1e-5;
  const at::Tensor gains = gain(row_norms(weight, square_rows(weight), first), first);
  return (gains - 1).abs().max().item<double>() <= tolerance;
}

}  // namespace trestle
