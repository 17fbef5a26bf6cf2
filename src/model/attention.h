// Scaled dot-product attention over packed sequences. Called by the decoder and the tower;
// cached_attention.h is that behind a cache.
#pragma once

#include "model/packing.h"

namespace trestle {

/// Each token attends to itself and those before it in its sequence. q [T, G, N, H], k and v [T, G,
/// H] -> [T, G*N*H]. Scores are scaled by 1/sqrt(H).
at::Tensor causal_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing);

/// Each patch attends to all patches of its image. q, k, v [P, heads, H] -> [P, heads*H].
at::Tensor block_attention(const at::Tensor& q_PNH, const at::Tensor& k_PNH,
                           const at::Tensor& v_PNH, const Packing& packing);

}  // namespace trestle
