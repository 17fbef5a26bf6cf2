// Scaled dot-product attention over packed sequences. Called by the decoder and the tower;
// cached_attention.h is that behind a cache.
#pragma once

#include "model/packing.h"

namespace trestle {

/// How attention within the sequences of a packing is computed.
enum class AttentionPath {
  /// On [B, longest], padded where lengths differ, or on each run of like lengths.
  kPadded,
  /// On the packed rows, by offsets.
  kPacked,
};

/// kPacked where the device has it, but for sequences of one length of at least kPlannedTokens:
/// those need no padding, and cuDNN, which torch takes for them on an H100, is faster there.
AttentionPath attention_path(const Packing& packing, at::DeviceType device, at::ScalarType dtype,
                             int64_t head_dim);

/// cuDNN plans each shape that it has not met, for tens of milliseconds: more than it saves in
/// shorter sequences, whose lengths are rarely alike from step to step.
constexpr int64_t kPlannedTokens = 2048;

/// Each token attends to itself and those before it in its sequence. q [T, G, N, H], k and v [T, G,
/// H] -> [T, G*N*H]. Scores are scaled by 1/sqrt(H).
at::Tensor causal_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing);

/// Each patch attends to all patches of its image. q, k, v [P, heads, H] -> [P, heads*H].
at::Tensor block_attention(const at::Tensor& q_PNH, const at::Tensor& k_PNH,
                           const at::Tensor& v_PNH, const Packing& packing);

}  // namespace trestle
