#include "kernels/matrix_product.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "cpu/cpu.h"
#include "kernels/widened_product.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool is_widened(const at::Tensor& a, const at::Tensor& b) {
  return bf16_path() == Bf16Path::kWidened && a.is_cpu() && b.is_cpu() && a.dim() == 2 &&
         b.dim() == 2 && a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16;
}

class WidenedTimesTransposed : public torch::autograd::Function<WidenedTimesTransposed> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& a_MK,
                            const at::Tensor& b_NK, const std::optional<at::Tensor>& bias_N) {
    const bool a_trains = a_MK.requires_grad(), b_trains = b_NK.requires_grad();
    // Each gradient needs the other factor alone.
    context->save_for_backward({b_trains ? a_MK : at::Tensor(), a_trains ? b_NK : at::Tensor()});
    context->saved_data["bias_trains"] = bias_N && bias_N->requires_grad();
    return widened_times_transposed(a_MK, b_NK, bias_N.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& up_MN = gradients[0];
    at::Tensor da_MK, db_NK, dbias_N;
    if (saved[1].defined()) da_MK = widened_times(up_MN, saved[1]);
    if (saved[0].defined()) {
      db_NK = at::empty({up_MN.size(1), saved[0].size(1)}, up_MN.options());
      widened_transposed_times_out(db_NK, up_MN, saved[0]);
    }
    if (context->saved_data["bias_trains"].toBool()) dbias_N = up_MN.sum(0);
    return {da_MK, db_NK, dbias_N};
  }
};

}  // namespace

at::Tensor times_transposed(const at::Tensor& a_MK, const at::Tensor& b_NK,
                            const at::Tensor& bias_N) {
  if (!is_widened(a_MK, b_NK)) return at::linear(a_MK, b_NK, bias_N);
  const auto bias = bias_N.defined() ? std::optional(bias_N) : std::nullopt;
  return WidenedTimesTransposed::apply(a_MK, b_NK, bias);
}

at::Tensor times(const at::Tensor& a_MN, const at::Tensor& b_NK) {
  return is_widened(a_MN, b_NK) ? widened_times(a_MN, b_NK) : at::mm(a_MN, b_NK);
}

void add_times_transposed(at::Tensor& y_MN, const at::Tensor& a_MK, const at::Tensor& b_NK,
                          double alpha) {
  if (is_widened(a_MK, b_NK)) {
    y_MN.add_(widened_times_transposed(a_MK, b_NK, {}), alpha);
  } else {
    y_MN.addmm_(a_MK, b_NK.t(), /*beta=*/1, alpha);
  }
}

void add_times(at::Tensor& y_MK, const at::Tensor& a_MN, const at::Tensor& b_NK) {
  if (is_widened(a_MN, b_NK)) {
    y_MK.add_(widened_times(a_MN, b_NK));
  } else {
    y_MK.addmm_(a_MN, b_NK);
  }
}

void transposed_times_out(at::Tensor& out_NK, const at::Tensor& a_MN, const at::Tensor& b_MK) {
  if (is_widened(a_MN, b_MK)) {
    widened_transposed_times_out(out_NK, a_MN, b_MK);
  } else {
    at::mm_out(out_NK, a_MN.t(), b_MK);
  }
}

}  // namespace trestle
