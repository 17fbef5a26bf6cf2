// Attention of one new token a sequence to keys and values of a fixed capacity. Called by the
// model's cached attention where the host does not know how long the sequences are.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// Stores k and v [B, G, H] at positions_B, int64 where the cache is, into keys and values
/// [B, G, capacity, H]; then softmax(q k^T / sqrt(H)) v of q [B, G, N, H] over the keys up to
/// there: [B, G*N*H]. Positions are within the capacity. No operator and no size depends on them.
/// No gradients.
at::Tensor decode_attention(const at::Tensor& q_BGNH, const at::Tensor& k_BGH,
                            const at::Tensor& v_BGH, const at::Tensor& keys_BGCH,
                            const at::Tensor& values_BGCH, const at::Tensor& positions_B);

}  // namespace trestle
