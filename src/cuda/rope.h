// The turn of queries and keys on a card, with the Llama-4 scale of queries: what model/rope.h's
// rotate() and llama_4_query_scale() make, and the gradient.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// Heads [tokens, groups, heads, head_dim] within a larger tensor: those of a group lie beside each
/// other. Strides are in elements.
struct HeadRows {
  void* data = nullptr;
  int64_t token_stride = 0, group_stride = 0;
};

/// Every head x = (a, b), in halves, becomes (a cos - b sin, b cos + a sin), and the first
/// `scaled_heads` of each group (the queries) are multiplied by their token's scale: from `from`
/// into `to`, which may be the same memory. cos, sin [tokens, head_dim], of which the first halves
/// are read, and query_scale [tokens] (null: 1) are of the same type; sums are in fp32, rounded
/// once. With `backward` the gradient of the result becomes that of x. head_dim is even.
struct Rope {
  Type type = Type::kFloat;
  int64_t tokens = 0, groups = 0, heads = 0, head_dim = 0, scaled_heads = 0;
  HeadRows from = {}, to = {};
  const void *cos = nullptr, *sin = nullptr, *query_scale = nullptr;
  bool backward = false;
};
int rope(const Rope& args, Stream stream);

}  // namespace trestle::cuda
