// Softmax attention of rows that are padded, whose backward has no scalar code in bf16, and of rows
// that are packed. Called by model/attention.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// softmax(q k^T / sqrt(H), over the keys up to the query's own with `causal`) v: q [B, heads, S,
/// H], k and v [B, groups, S, H] -> as q; heads a multiple of groups. libtorch's; where bf16 is
/// widened and gradients are asked for, libtorch's forward, and its backward in fp32, rounded once.
/// What is kept between the two is bf16 either way.
at::Tensor attention_product(const at::Tensor& q_BNSH, const at::Tensor& k_BGSH,
                             const at::Tensor& v_BGSH, bool causal);

/// Where libtorch has attention of packed rows: flash attention on a card. Its tests set another
/// device for which they registered one, and the dtypes that this takes.
struct PackedAttention {
  at::DeviceType device = at::kCUDA;
  bool takes_float = false;

  static PackedAttention& supported();
  /// H a multiple of 8 up to 256, bf16 or fp16.
  bool takes(at::DeviceType where, at::ScalarType dtype, int64_t head_dim) const;
};

/// Where sequences of packed rows begin and end.
struct SequenceRows {
  /// Sequence i has rows offsets[i] .. offsets[i + 1] - 1, int32 on the rows' device.
  at::Tensor offsets;
  int64_t longest = 0;
};

/// The same within each sequence of packed rows: q [T, heads, H], k and v [S, groups, H] -> [T,
/// heads, H]. With `causal` a sequence's last query sees its last key, and the one before it one
/// key less. Only where PackedAttention::takes() says so; groups are not repeated. The backward
/// sums in one order where torch is told to be deterministic, else as its blocks come.
at::Tensor packed_attention(const at::Tensor& q_TNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const SequenceRows& queries,
                            const SequenceRows& keys, bool causal);

}  // namespace trestle
