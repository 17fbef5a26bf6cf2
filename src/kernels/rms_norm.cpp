#include "kernels/rms_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/by_rows.h"
#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor by_operators(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * normed.to(x.scalar_type());
}

int64_t rows_of(const at::Tensor& x) { return x.size(-1) == 0 ? 0 : x.numel() / x.size(-1); }

// `inverse_rms`, fp32 [rows], is filled where it is defined.
at::Tensor forward_by_loops(const at::Tensor& x, const at::Tensor& weight, double eps,
                            const at::Tensor& inverse_rms) {
  at::Tensor y = at::empty_like(x);
  const int64_t columns = x.size(-1);
  float* const kept = inverse_rms.defined() ? inverse_rms.mutable_data_ptr<float>() : nullptr;
  by_value_type(x, [&]<class Value>(Value) {
    const auto* values = static_cast<const Value*>(x.const_data_ptr());
    const auto* weights = static_cast<const Value*>(weight.const_data_ptr());
    auto* to = static_cast<Value*>(y.mutable_data_ptr());
    for_rows(rows_of(x), columns, [&](int64_t row) {
      const float inverse = row_loops_here().of<Value>().rms_norm(
          values + row * columns, weights, columns, static_cast<float>(eps), to + row * columns);
      if (kept != nullptr) kept[row] = inverse;
    });
  });
  return y;
}

struct Backward {
  const at::Tensor &x, &weight, &inverse_rms, &up;
  bool weight_trains;
};

variable_list backward_by_loops(const Backward& of) {
  constexpr int64_t kRows = 64;  // whose gradients of the weight are summed first, whoever does it
  at::Tensor dx = at::empty_like(of.x), partial;
  const int64_t rows = rows_of(of.x), columns = of.x.size(-1), blocks = (rows + kRows - 1) / kRows;
  if (of.weight_trains) partial = at::zeros({blocks, columns}, of.inverse_rms.options());
  by_value_type(of.x, [&]<class Value>(Value) {
    const auto data = [](const at::Tensor& tensor) {
      return static_cast<const Value*>(tensor.const_data_ptr());
    };
    const Value *x = data(of.x), *weight = data(of.weight), *up = data(of.up);
    const auto* inverse = of.inverse_rms.const_data_ptr<float>();
    auto* to = static_cast<Value*>(dx.mutable_data_ptr());
    float* const sums = of.weight_trains ? partial.mutable_data_ptr<float>() : nullptr;
    for_rows(blocks, kRows * columns, [&](int64_t block) {
      for (int64_t row = block * kRows; row < std::min(rows, (block + 1) * kRows); ++row) {
        row_loops_here().of<Value>().rms_norm_backward(
            x + row * columns, weight, up + row * columns, inverse[row], columns,
            to + row * columns, sums == nullptr ? nullptr : sums + block * columns);
      }
    });
  });
  at::Tensor dweight;
  if (of.weight_trains) dweight = partial.sum(0).to(of.weight.scalar_type());
  return {dx, dweight, {}};
}

const cuda::Kernels* kernels_of(const at::Tensor& x, const at::Tensor& weight) {
  const cuda::Kernels* kernels = kernels_for({x, weight});
  if (kernels == nullptr) return nullptr;
  return cuda::takes_rows(kernel_type(x.scalar_type()), x.size(-1)) ? kernels : nullptr;
}

at::Tensor forward_by(const cuda::Kernels& kernels, const at::Tensor& x, const at::Tensor& weight,
                      double eps, const at::Tensor& inverse_rms) {
  at::Tensor y = at::empty_like(x);
  launch(
      kernels, &cuda::Kernels::rms_norm_forward, "rms_norm_forward", x,
      cuda::RmsNormForward{
          .type = kernel_type(x.scalar_type()),
          .rows = rows_of(x),
          .columns = x.size(-1),
          .eps = eps,
          .x = x.const_data_ptr(),
          .weight = weight.const_data_ptr(),
          .y = y.mutable_data_ptr(),
          .inverse_rms = inverse_rms.defined() ? inverse_rms.mutable_data_ptr<float>() : nullptr});
  return y;
}

at::Tensor forward_of(const at::Tensor& x, const at::Tensor& weight, double eps,
                      const at::Tensor& inverse_rms) {
  const cuda::Kernels* kernels = kernels_of(x, weight);
  return kernels == nullptr ? forward_by_loops(x, weight, eps, inverse_rms)
                            : forward_by(*kernels, x, weight, eps, inverse_rms);
}

variable_list backward_by(const cuda::Kernels& kernels, const Backward& of) {
  const at::Tensor& x = of.x;
  at::Tensor dx = at::empty_like(x), dweight, partial;
  if (of.weight_trains) {
    dweight = at::empty_like(of.weight);
    partial =
        at::empty({cuda::rms_norm_partials(rows_of(x)), x.size(-1)}, of.inverse_rms.options());
  }
  launch(kernels, &cuda::Kernels::rms_norm_backward, "rms_norm_backward", x,
         cuda::RmsNormBackward{
             .type = kernel_type(x.scalar_type()),
             .rows = rows_of(x),
             .columns = x.size(-1),
             .up = of.up.const_data_ptr(),
             .x = x.const_data_ptr(),
             .weight = of.weight.const_data_ptr(),
             .inverse_rms = of.inverse_rms.const_data_ptr<float>(),
             .dx = dx.mutable_data_ptr(),
             .dweight = of.weight_trains ? dweight.mutable_data_ptr() : nullptr,
             .partial = of.weight_trains ? partial.mutable_data_ptr<float>() : nullptr});
  return {dx, dweight, {}};
}

// Of rows and a weight whose values lie beside each other.
class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    const at::Tensor inverse_rms = at::empty({rows_of(x)}, x.options().dtype(at::kFloat));
    ctx->save_for_backward({x, weight, inverse_rms});
    return forward_of(x, weight, eps, inverse_rms);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor up = beside_each_other(gradients[0]);
    const Backward of{saved[0], saved[1], saved[2], up, ctx->needs_input_grad(1)};
    const cuda::Kernels* kernels = kernels_of(of.x, of.weight);
    return kernels == nullptr ? backward_by_loops(of) : backward_by(*kernels, of);
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (kernels_of(x, weight) == nullptr && !takes_row_loops({x, weight})) {
    return by_operators(x, weight, eps);
  }
  TORCH_CHECK(weight.sizes() == at::IntArrayRef{x.size(-1)}, "a norm's weight ", weight.sizes(),
              " is of rows ", x.sizes());
  const at::Tensor rows = beside_each_other(x), scale = beside_each_other(weight);
  return asks_for_gradient({rows, scale}) ? RmsNorm::apply(rows, scale, eps)
                                          : forward_of(rows, scale, eps, {});
}

}  // namespace trestle
