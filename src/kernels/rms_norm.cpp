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

at::Tensor by_rows(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor from = x.contiguous(), scale = weight.contiguous();
  at::Tensor y = at::empty_like(from);
  const int64_t columns = from.size(-1);
  by_value_type(from, [&]<class Value>(Value) {
    const auto* values = static_cast<const Value*>(from.const_data_ptr());
    const auto* weights = static_cast<const Value*>(scale.const_data_ptr());
    auto* to = static_cast<Value*>(y.mutable_data_ptr());
    for_rows(rows_of(from), columns, [&](int64_t row) {
      row_loops_here().of<Value>().rms_norm(values + row * columns, weights, columns,
                                            static_cast<float>(eps), to + row * columns);
    });
  });
  return y;
}

const cuda::Kernels* kernels_of(const at::Tensor& x, const at::Tensor& weight) {
  const cuda::Kernels* kernels = kernels_for({x, weight});
  if (kernels == nullptr) return nullptr;
  return cuda::takes_rows(kernel_type(x.scalar_type()), x.size(-1)) ? kernels : nullptr;
}

// `inverse_rms`, fp32 [rows], is filled where it is defined.
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

class RmsNormByKernels : public torch::autograd::Function<RmsNormByKernels> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    const at::Tensor inverse_rms = at::empty({rows_of(x)}, x.options().dtype(at::kFloat));
    ctx->save_for_backward({x, weight, inverse_rms});
    return forward_by(*kernels_of(x, weight), x, weight, eps, inverse_rms);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse_rms = saved[2];
    const at::Tensor up = beside_each_other(gradients[0]);
    const bool weight_trains = ctx->needs_input_grad(1);
    at::Tensor dx = at::empty_like(x), dweight, partial;
    if (weight_trains) {
      dweight = at::empty_like(weight);
      partial = at::empty({cuda::rms_norm_partials(rows_of(x)), x.size(-1)}, inverse_rms.options());
    }
    launch(*kernels_of(x, weight), &cuda::Kernels::rms_norm_backward, "rms_norm_backward", x,
           cuda::RmsNormBackward{
               .type = kernel_type(x.scalar_type()),
               .rows = rows_of(x),
               .columns = x.size(-1),
               .up = up.const_data_ptr(),
               .x = x.const_data_ptr(),
               .weight = weight.const_data_ptr(),
               .inverse_rms = inverse_rms.const_data_ptr<float>(),
               .dx = dx.mutable_data_ptr(),
               .dweight = weight_trains ? dweight.mutable_data_ptr() : nullptr,
               .partial = weight_trains ? partial.mutable_data_ptr<float>() : nullptr});
    return {dx, dweight, {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const cuda::Kernels* kernels = kernels_of(x, weight);
  const bool by_loops = kernels == nullptr && takes_row_loops({x, weight});
  if (kernels == nullptr && !by_loops) return by_operators(x, weight, eps);
  TORCH_CHECK(weight.sizes() == at::IntArrayRef{x.size(-1)}, "a norm's weight ", weight.sizes(),
              " is of rows ", x.sizes());
  if (by_loops) return by_rows(x, weight, eps);
  const at::Tensor rows = beside_each_other(x), scale = beside_each_other(weight);
  return asks_for_gradient({rows, scale}) ? RmsNormByKernels::apply(rows, scale, eps)
                                          : forward_by(*kernels, rows, scale, eps, {});
}

}  // namespace trestle
