// The turn of queries and keys by their positions. Called by attention in both towers; model/rope.h
// makes the rotations.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// cos and sin, each [T, H], both halves of the head alike.
struct Rotation {
  at::Tensor cos, sin;
};

/// Rotates x [T, ..., H].
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation);

struct QueriesKeysValues {
  at::Tensor q_TGNH, k_TGH, v_TGH;
};

/// The parts of a fused projection's output [T, G, N+2, H], queries and keys rotated and queries
/// multiplied by their token's `query_scale` [T, 1, 1, 1] (undefined: 1). By kernels of a card the
/// parts of what trains are tensors of their own, so that nothing keeps qkv.
QueriesKeysValues rotated_parts(const at::Tensor& qkv_TGMH, const Rotation& rotation,
                                const at::Tensor& query_scale);

}  // namespace trestle
