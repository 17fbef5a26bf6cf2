// Softmax attention whose backward has no scalar code in bf16. Called by model/attention.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// softmax(q k^T / sqrt(H), over the keys up to the query's own with `causal`) v: q [B, heads, S,
/// H], k and v [B, groups, S, H] -> as q; heads a multiple of groups. libtorch's; where bf16 is
/// widened and gradients are asked for, libtorch's forward, and its backward in fp32, rounded once.
/// What is kept between the two is bf16 either way.
at::Tensor attention_product(const at::Tensor& q_BNSH, const at::Tensor& k_BGSH,
                             const at::Tensor& v_BGSH, bool causal);

}  // namespace trestle
