// Attention of a few new tokens of each sequence to a cache that holds them, on the CPU: the heads
// of a group are rows of one product, so that its keys and values are read once. Called by the
// model's cached attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace trestle {

/// Whether cache_attention() takes them: on the CPU, in bf16 or fp32, no gradient asked for, and at
/// most kMostCacheTokens new tokens of any sequence, whatever its heads.
constexpr int64_t kMostCacheTokens = 16;
bool takes_cache_attention(const at::Tensor& q_TGNH, const std::vector<int64_t>& added);

/// softmax(q k^T / sqrt(H)) v of q [T, G, N, H], the added[b] newest tokens of each sequence in
/// turn, to keys and values [B, G, capacity, H]: the first of them sees lengths[b] + 1 tokens of
/// its sequence, each further one one more. -> [T, G*N*H], in q's dtype, summed in fp32;
/// of each token the same bits alone and beside others.
at::Tensor cache_attention(const at::Tensor& q_TGNH, const at::Tensor& keys_BGCH,
                           const at::Tensor& values_BGCH, const std::vector<int64_t>& lengths,
                           const std::vector<int64_t>& added);

}  // namespace trestle
