// Attention behind a cache. Called by the decoder where tokens are generated.
#pragma once

#include "model/kv_cache.h"
#include "model/packing.h"

namespace trestle {

/// causal_attention() of new tokens and those that the cache holds, and keeps k and v: whole
/// sequences into an empty cache, or new tokens of each sequence after those it holds; of a fixed
/// cache one a sequence. q [T, G, N, H], k and v [T, G, H] -> [T, G*N*H].
at::Tensor cached_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing, KvCache& cache,
                            size_t layer);

}  // namespace trestle
