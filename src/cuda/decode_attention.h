// Attention of one new token a sequence to its cache, on a card, and the token's way into the
// cache: what model/attention.h computes behind a fixed cache.
#pragma once

#include <initializer_list>

#include "cuda/call.h"
#include "cuda/rope.h"

namespace trestle::cuda {

/// More heads a group are refused (cudaErrorInvalidValue), as is a head_dim above 256 or one that
/// is no whole number of lanes' shares (decode_attention_takes()).
constexpr int64_t kMostHeads = 8;

/// k and v [sequences, groups, head_dim] are stored at positions[sequence], a number on the device,
/// in keys and values [sequences, groups, capacity, head_dim]; then y [sequences, groups, heads,
/// head_dim] = softmax(q K^T / sqrt(head_dim)) V over the keys up to there, for q [sequences,
/// groups, heads, head_dim] whose heads of a group lie beside each other. All of one type; sums in
/// fp32, rounded once. A position outside the capacity stores nothing and gives NaN. `partial`:
/// fp32, decode_attention_partials() numbers. No size depends on the positions.
struct DecodeAttention {
  Type type = Type::kFloat;
  int64_t sequences = 0, groups = 0, heads = 0, head_dim = 0, capacity = 0;
  HeadRows q = {}, k = {}, v = {};
  void *keys = nullptr, *values = nullptr;
  const int64_t* positions = nullptr;
  void* y = nullptr;
  float* partial = nullptr;
};
int decode_attention(const DecodeAttention& args, Stream stream);

/// How the keys of a sequence are split over blocks: few enough for a block that one sequence fills
/// a card, more where the join of over 64 splits would cost.
struct KeySplits {
  int64_t keys = 0;   // of a split
  int64_t count = 0;  // of splits
};
inline KeySplits key_splits(int64_t capacity) {
  constexpr int64_t kLeastKeys = 128, kMostSplits = 64;
  const int64_t rounds = (capacity + kMostSplits * kLeastKeys - 1) / (kMostSplits * kLeastKeys);
  const int64_t keys = (rounds > 0 ? rounds : 1) * kLeastKeys;
  return {keys, (capacity + keys - 1) / keys};
}

/// Beside the values of a head's partial sum: the largest score and the sum of weights.
constexpr int64_t kOfSoftmax = 2;
inline int64_t decode_attention_partials(int64_t sequences, int64_t groups, int64_t heads,
                                         int64_t head_dim, int64_t capacity) {
  return sequences * groups * key_splits(capacity).count * heads * (head_dim + kOfSoftmax);
}

/// The least number of values with which each lane's share makes a whole head; 0: there is none.
inline int lane_share(int64_t head_dim) {
  for (const int width : {1, 2, 4, 8}) {
    if (head_dim <= 32 * width && head_dim % width == 0) return width;
  }
  return 0;
}
/// Whether the shape is taken.
inline bool decode_attention_takes(int64_t heads, int64_t head_dim) {
  return heads >= 1 && heads <= kMostHeads && head_dim >= 1 && lane_share(head_dim) > 0;
}

}  // namespace trestle::cuda
