#include "kernels/decode_attention.h"

#include <ATen/ATen.h>

#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

at::Tensor by_operators(const at::Tensor& q_BGNH, const at::Tensor& k_BGH, const at::Tensor& v_BGH,
                        const at::Tensor& keys_BGCH, const at::Tensor& values_BGCH,
                        const at::Tensor& positions_B) {
  const at::Tensor position = positions_B.view({-1, 1, 1, 1});
  const at::Tensor places = position.expand({-1, k_BGH.size(1), 1, k_BGH.size(2)});
  keys_BGCH.scatter_(2, places, k_BGH.unsqueeze(2));
  values_BGCH.scatter_(2, places, v_BGH.unsqueeze(2));
  const at::Tensor mask = at::arange(keys_BGCH.size(2), positions_B.options()).le(position);
  return at::scaled_dot_product_attention(q_BGNH, keys_BGCH, values_BGCH, mask).flatten(1);
}

// `heads` of a group beside each other, whatever the strides of tokens and groups are.
at::Tensor with_heads_beside(const at::Tensor& x) {
  const bool beside = x.stride(-1) == 1 && (x.dim() == 3 || x.stride(2) == x.size(3));
  return beside ? x : x.contiguous();
}

cuda::HeadRows rows_of(const at::Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }

}  // namespace

at::Tensor decode_attention(const at::Tensor& q_BGNH, const at::Tensor& k_BGH,
                            const at::Tensor& v_BGH, const at::Tensor& keys_BGCH,
                            const at::Tensor& values_BGCH, const at::Tensor& positions_B) {
  const int64_t B = q_BGNH.size(0), G = q_BGNH.size(1), N = q_BGNH.size(2), H = q_BGNH.size(3),
                capacity = keys_BGCH.size(2);
  TORCH_CHECK(k_BGH.sizes() == at::IntArrayRef({B, G, H}) && v_BGH.sizes() == k_BGH.sizes() &&
                  keys_BGCH.sizes() == at::IntArrayRef({B, G, capacity, H}) &&
                  values_BGCH.sizes() == keys_BGCH.sizes() &&
                  positions_B.sizes() == at::IntArrayRef{B} &&
                  positions_B.scalar_type() == at::kLong && keys_BGCH.is_contiguous() &&
                  values_BGCH.is_contiguous(),
              "a token of each sequence and a cache for it");
  const cuda::Kernels* kernels = kernels_for({q_BGNH, k_BGH, v_BGH, keys_BGCH, values_BGCH});
  if (kernels == nullptr || !cuda::decode_attention_takes(N, H)) {
    return by_operators(q_BGNH, k_BGH, v_BGH, keys_BGCH, values_BGCH, positions_B);
  }
  TORCH_CHECK(!asks_for_gradient({q_BGNH, k_BGH, v_BGH}), "decoding has no gradients");
  const at::Tensor q = with_heads_beside(q_BGNH), k = with_heads_beside(k_BGH),
                   v = with_heads_beside(v_BGH);
  at::Tensor y = at::empty({B, G * N * H}, q.options());
  at::Tensor partial = at::empty({cuda::decode_attention_partials(B, G, N, H, capacity)},
                                 q.options().dtype(at::kFloat));
  launch(*kernels, &cuda::Kernels::decode_attention, "decode_attention", q,
         cuda::DecodeAttention{.type = kernel_type(q.scalar_type()),
                               .sequences = B,
                               .groups = G,
                               .heads = N,
                               .head_dim = H,
                               .capacity = capacity,
                               .q = rows_of(q),
                               .k = rows_of(k),
                               .v = rows_of(v),
                               .keys = keys_BGCH.mutable_data_ptr(),
                               .values = values_BGCH.mutable_data_ptr(),
                               .positions = positions_B.const_data_ptr<int64_t>(),
                               .y = y.mutable_data_ptr(),
                               .partial = partial.mutable_data_ptr<float>()});
  return y;
}

}  // namespace trestle
