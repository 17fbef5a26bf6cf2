#include "kernels/attention_product.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cpu/cpu.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Each group's keys, once for each of its heads.
at::Tensor for_each_head(const at::Tensor& x_BGSH, int64_t heads) {
  const int64_t groups = x_BGSH.size(1);
  return groups == heads ? x_BGSH : x_BGSH.repeat_interleave(heads / groups, 1);
}

// The gradient of what for_each_head was given, in bf16.
at::Tensor of_each_group(const at::Tensor& dx_BNSH, int64_t groups) {
  const int64_t heads = dx_BNSH.size(1);
  return (groups == heads ? dx_BNSH : dx_BNSH.unflatten(1, {groups, heads / groups}).sum(2))
      .to(at::kBFloat16);
}

class WidenedAttention : public torch::autograd::Function<WidenedAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, bool causal) {
    const int64_t heads = q.size(1);
    const auto [y, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(
        q, for_each_head(k, heads), for_each_head(v, heads), /*dropout_p=*/0.0, causal);
    context->save_for_backward({q, k, v, y, log_sum});
    context->saved_data["causal"] = causal;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto wide = [](const at::Tensor& x) { return x.to(at::kFloat); };
    const int64_t heads = saved[0].size(1), groups = saved[1].size(1);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        wide(gradients[0]), wide(saved[0]), for_each_head(wide(saved[1]), heads),
        for_each_head(wide(saved[2]), heads), wide(saved[3]), saved[4], /*dropout_p=*/0.0,
        context->saved_data["causal"].toBool());
    return {dq.to(at::kBFloat16), of_each_group(dk, groups), of_each_group(dv, groups), {}};
  }
};

bool asks_for_gradients(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::GradMode::is_enabled() &&
         (q.requires_grad() || k.requires_grad() || v.requires_grad());
}

}  // namespace

at::Tensor attention_product(const at::Tensor& q_BNSH, const at::Tensor& k_BGSH,
                             const at::Tensor& v_BGSH, bool causal) {
  const bool is_widened = bf16_path() == Bf16Path::kWidened && q_BNSH.is_cpu() &&
                          q_BNSH.scalar_type() == at::kBFloat16 && q_BNSH.numel() > 0;
  if (is_widened && asks_for_gradients(q_BNSH, k_BGSH, v_BGSH)) {
    return WidenedAttention::apply(q_BNSH, k_BGSH, v_BGSH, causal);
  }
  return at::scaled_dot_product_attention(q_BNSH, k_BGSH, v_BGSH, /*attn_mask=*/{},
                                          /*dropout_p=*/0.0, causal, /*scale=*/std::nullopt,
                                          /*enable_gqa=*/q_BNSH.size(1) != k_BGSH.size(1));
}

PackedAttention& PackedAttention::supported() {
  static PackedAttention supported;
  return supported;
}

bool PackedAttention::takes(at::DeviceType where, at::ScalarType dtype, int64_t head_dim) const {
  const bool is_half = dtype == at::kBFloat16 || dtype == at::kHalf;
  return where == device && (is_half || (takes_float && dtype == at::kFloat)) &&
         head_dim % 8 == 0 && head_dim <= 256;
}

at::Tensor packed_attention(const at::Tensor& q_TNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const SequenceRows& queries,
                            const SequenceRows& keys, bool causal) {
  return std::get<0>(at::_flash_attention_forward(q_TNH, k_TGH, v_TGH, queries.offsets,
                                                  keys.offsets, queries.longest, keys.longest,
                                                  /*dropout_p=*/0.0, causal,
                                                  /*return_debug_mask=*/false));
}

}  // namespace trestle
