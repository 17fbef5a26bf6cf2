#include "linear/projection.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <array>

#include "kernels/matrix_product.h"
#include "kernels/times_panels.h"
#include "linear/fp8_weight.h"
#include "linear/panel_weight.h"
#include "linear/quantized.h"
#include "linear/tiled_product.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x W^T + b.
at::Tensor product(const at::Tensor& x, const HeldMatrix& matrix, const at::Tensor& bias) {
  if (matrix.form == HeldMatrix::Form::kDense) {
    return times_transposed(x, matrix.parts.tensors.front(), bias);
  }
  const auto without_bias = [&] {
    switch (matrix.form) {
      case HeldMatrix::Form::kFp8:
        return tiled_times_transposed(x, Fp8Weight(matrix.parts));
      case HeldMatrix::Form::kPanels: {
        const PanelWeight weight(matrix.parts);
        return times_panels(x.detach(), weight.panels(), weight.shape());
      }
      default:
        return tiled_times_transposed(x, QuantizedWeight(matrix.parts));
    }
  };
  at::Tensor y = without_bias();
  return bias.defined() ? y.add_(bias) : y;
}

// up W.
at::Tensor gradient_product(const at::Tensor& up, const HeldMatrix& matrix) {
  switch (matrix.form) {
    case HeldMatrix::Form::kDense:
      return times(up, matrix.parts.tensors.front());
    case HeldMatrix::Form::kQuantized:
      return tiled_times(up, QuantizedWeight(matrix.parts));
    case HeldMatrix::Form::kFp8:
      return tiled_times(up, Fp8Weight(matrix.parts));
    case HeldMatrix::Form::kPanels:
      return tiled_times(up, PanelWeight(matrix.parts));
  }
  TORCH_CHECK(false, "unknown form of a matrix");
}

at::Tensor transposed_times(const at::Tensor& a_MN, const at::Tensor& b_MK) {
  at::Tensor result = at::empty({a_MN.size(1), b_MK.size(1)}, b_MK.options());
  transposed_times_out(result, a_MN, b_MK);
  return result;
}

// All pairs of an update as a single one, so that the output is read and written once whatever
// their number: the A's one under the other, each B in the rows of its part and the columns of its
// A. The products with the zeros between are less than going over the output again.
class JoinedPair {
 public:
  JoinedPair(const LowRankUpdate& update, const std::vector<at::Tensor>& factors)
      : update_(update), factors_(factors) {
    scale_ = **std::ranges::find_if(update.scales, [](const auto& s) { return s.has_value(); });
    if (is_whole()) {
      b_ = factors[1];
      return;
    }
    int64_t ranks = 0;
    for (size_t i = 0; i < factors.size(); i += 2) ranks += factors[i].size(0);
    variable_list parts;
    for_parts([&](size_t part, std::optional<size_t> pair, int64_t column) {
      at::Tensor b = at::zeros({update_.layout.part_size(part, update_.out), ranks},
                               factors_.front().options());
      if (pair) {
        const at::Tensor& own = factors_[2 * *pair + 1];
        b.narrow(1, column, own.size(1)).copy_(own * ratio(part));
      }
      parts.push_back(b);
    });
    b_ = update_.layout.fuse(parts, 0);
  }

  /// Made with each call: only a gradient needs it.
  at::Tensor a() const {
    if (is_whole()) return factors_[0];
    variable_list all;
    for (size_t i = 0; i < factors_.size(); i += 2) all.push_back(factors_[i]);
    return at::cat(all);
  }
  const at::Tensor& b() const { return b_; }
  double scale() const { return scale_; }

  /// x A^T: [T, in] -> [T, ranks]. Each A's by itself, in which sums have the order of one pair for
  /// the whole projection: PEFT's form of such an adapter gives its bits.
  at::Tensor low(const at::Tensor& x) const {
    variable_list all;
    for (size_t i = 0; i < factors_.size(); i += 2) {
      all.push_back(times_transposed(x, factors_[i]));
    }
    return all.size() == 1 ? all.front() : at::cat(all, 1);
  }

  /// Of the factors, from those of a() and b().
  variable_list gradients(const at::Tensor& da, const at::Tensor& db) const {
    if (is_whole()) return {da, db};
    const variable_list parts = update_.layout.split(db, 0);
    variable_list result;
    for_parts([&](size_t part, std::optional<size_t> pair, int64_t column) {
      if (!pair) return;
      const int64_t rank = factors_[2 * *pair].size(0);
      result.push_back(da.narrow(0, column, rank));
      result.push_back(parts[part].narrow(1, column, rank).contiguous() * ratio(part));
    });
    return result;
  }

 private:
  bool is_whole() const { return update_.scales.size() == 1; }
  // Of a pair's scale to scale(), which is the product's.
  double ratio(size_t part) const { return *update_.scales[part] / scale_; }

  // fn(part, its pair, the pair's first column in b()).
  template <class Function>
  void for_parts(const Function& fn) const {
    size_t pair = 0;
    int64_t column = 0;
    for (size_t part = 0; part < update_.scales.size(); ++part) {
      if (!update_.scales[part]) {
        fn(part, std::nullopt, column);
        continue;
      }
      fn(part, pair, column);
      column += factors_[2 * pair++].size(0);
    }
  }

  const LowRankUpdate& update_;
  const std::vector<at::Tensor>& factors_;
  at::Tensor b_;
  double scale_ = 0;
};

// What the backward pass has to know beside tensors.
struct Plan : torch::CustomClassHolder {
  ProjectionInput::Remake remake;
  HeldMatrix matrix;     // without its tensors
  LowRankUpdate update;  // without its factors
  bool x_trains = false, matrix_trains = false, bias_trains = false;
};

struct Products {
  at::Tensor y;
  /// Undefined without an update, the second without dropout.
  at::Tensor low, mask;
};

Products products_of(const at::Tensor& x, const HeldMatrix& matrix, const at::Tensor& bias,
                     const LowRankUpdate& update) {
  Products products{product(x, matrix, bias), {}, {}};
  if (update.factors.empty()) return products;
  const JoinedPair pair(update, update.factors);
  at::Tensor seen = x;
  if (update.dropout > 0) {
    std::tie(seen, products.mask) = at::native_dropout(x, update.dropout, /*train=*/true);
  }
  products.low = pair.low(seen);
  add_times_transposed(products.y, products.low, pair.b(), pair.scale());
  return products;
}

struct Operands {
  const ProjectionInput& input;
  const HeldMatrix& matrix;
  const at::Tensor& bias;
  const LowRankUpdate& update;
};

class Projected : public torch::autograd::Function<Projected> {
 public:
  // A matrix and a bias that are frozen are no inputs.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& trained_matrix,
                            const std::optional<at::Tensor>& trained_bias, at::TensorList factors,
                            const Operands& operands) {
    const auto& [input, matrix, bias, update] = operands;
    const Products products = products_of(x, matrix, bias, update);
    auto plan = c10::make_intrusive<Plan>();
    plan->remake = input.remake;
    plan->matrix = {matrix.form, {{}, matrix.parts.size}, matrix.gather};
    plan->update = {update.layout, update.out, update.scales, {}, update.dropout};
    plan->x_trains = x.requires_grad();
    plan->matrix_trains = trained_matrix.has_value();
    plan->bias_trains = trained_bias.has_value();
    const bool needs_x = plan->matrix_trains || !factors.empty();
    variable_list from;
    if (needs_x) from = input.remake ? input.from : variable_list{x};
    save(*ctx, {from,
                plan->x_trains && !matrix.gather ? matrix.parts.tensors : variable_list(),
                factors.vec(),
                {products.low, products.mask}});
    ctx->saved_data["plan"] = c10::IValue::make_capsule(std::move(plan));
    return products.y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(ctx->saved_data["plan"].toCapsule());
    const auto [from, matrix, factors, products] = saved(*ctx);
    const at::Tensor &up = gradients[0], &low = products[0], &mask = products[1];
    const double kept_share = 1 / (1 - plan->update.dropout);
    at::Tensor x, dx, dmatrix, dbias, dlow;
    variable_list dfactors;
    std::optional<JoinedPair> pair;
    if (!from.empty()) x = plan->remake ? plan->remake(from) : from.front();
    if (plan->bias_trains) dbias = up.sum(0);
    if (plan->matrix_trains) dmatrix = transposed_times(up, x);
    if (!factors.empty()) {
      pair.emplace(plan->update, factors);
      dlow = times(up, pair->b()).mul_(pair->scale());
      const at::Tensor seen = mask.defined() ? x.mul(mask).mul_(kept_share) : x;
      dfactors = pair->gradients(transposed_times(dlow, seen),
                                 transposed_times(up, low).mul_(pair->scale()));
    }
    x.reset();  // before what is as large is made
    if (plan->x_trains) {
      const auto& [form, parts, gather] = plan->matrix;
      dx = gradient_product(up, HeldMatrix{form, {gather ? gather() : matrix, parts.size}, {}});
      if (pair && mask.defined()) {
        dx.add_(at::native_dropout_backward(times(dlow, pair->a()), mask, kept_share));
      } else if (pair) {
        add_times(dx, dlow, pair->a());
      }
    }
    variable_list result = {dx, dmatrix, dbias};
    result.insert(result.end(), dfactors.begin(), dfactors.end());
    result.emplace_back();  // of the operands
    return result;
  }

 private:
  // x or what it is made from, the matrix, the factors, and the forward's products.
  using Kept = std::array<variable_list, 4>;

  static void save(AutogradContext& ctx, const Kept& kept) {
    variable_list all;
    std::vector<int64_t> sizes;
    for (const variable_list& list : kept) {
      all.insert(all.end(), list.begin(), list.end());
      sizes.push_back(std::ssize(list));
    }
    ctx.save_for_backward(std::move(all));
    ctx.saved_data["sizes"] = sizes;
  }

  static Kept saved(const AutogradContext& ctx) {
    const variable_list all = ctx.get_saved_variables();
    const std::vector<int64_t> sizes = ctx.saved_data.at("sizes").toIntVector();
    Kept kept;
    auto next = all.begin();
    for (size_t i = 0; i < kept.size(); next += sizes[i++]) kept[i] = {next, next + sizes[i]};
    return kept;
  }
};

std::optional<at::Tensor> if_trained(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad() ? std::optional(tensor) : std::nullopt;
}

}  // namespace

at::Tensor dense(const HeldMatrix& matrix, IndexRange rows, IndexRange columns,
                 at::ScalarType dtype) {
  switch (matrix.form) {
    case HeldMatrix::Form::kDense:
      return matrix.parts.tensors.front()
          .narrow(0, rows.first, rows.count)
          .narrow(1, columns.first, columns.count);
    case HeldMatrix::Form::kQuantized:
      return QuantizedWeight(matrix.parts).dense(rows, columns, dtype);
    case HeldMatrix::Form::kFp8:
      return Fp8Weight(matrix.parts).dense(rows, columns, dtype);
    case HeldMatrix::Form::kPanels:
      return PanelWeight(matrix.parts).dense(rows, columns, dtype);
  }
  TORCH_CHECK(false, "unknown form of a matrix");
}

at::Tensor projected(const ProjectionInput& input, const HeldMatrix& matrix, const at::Tensor& bias,
                     const LowRankUpdate& update) {
  if (!at::GradMode::is_enabled()) return products_of(input.x, matrix, bias, update).y;
  const bool is_dense = matrix.form == HeldMatrix::Form::kDense;
  return Projected::apply(
      input.x, is_dense ? if_trained(matrix.parts.tensors.front()) : std::nullopt, if_trained(bias),
      at::TensorList(update.factors), Operands{input, matrix, bias, update});
}

}  // namespace trestle
