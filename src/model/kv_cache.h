// Keys and values of the tokens seen so far, one slab a layer, allocated once. Made by generate/,
// filled by attention.
#pragma once

#include <vector>

#include "linear/linear.h"
#include "model/config.h"
#include "model/packing.h"

namespace trestle {

class KvCache {
 public:
  /// Room for `capacity` tokens of each of `sequences` sequences; of a pipeline's stage, for its
  /// own layers.
  KvCache(const TextConfig& config, int64_t sequences, int64_t capacity, const Build& build);

  /// Tokens held of each sequence; they differ where prompts differ in length.
  const std::vector<int64_t>& lengths() const { return lengths_; }
  bool is_empty() const { return lengths_.empty() || longest() == 0; }
  int64_t longest() const;
  int64_t capacity() const { return capacity_; }

  /// Stores new tokens of each sequence behind its last: k and v [T, G, H], packed.
  void append(size_t layer, const at::Tensor& k_TGH, const at::Tensor& v_TGH,
              const Packing& packing);
  /// Stores whole sequences into an empty cache: k and v [B, S, G, H], padded on the right;
  /// `lengths` are the true ones.
  void fill(size_t layer, const at::Tensor& k_BSGH, const at::Tensor& v_BSGH);
  /// Called once a forward, after the last layer: the new lengths hold.
  void advance(const std::vector<int64_t>& added);
  /// Forgets what lies behind the first lengths[b] tokens of each sequence: what was tried and not
  /// kept.
  void truncate(const std::vector<int64_t>& lengths);

  /// Sequences [first, first + count) in the same memory, with lengths of its own, which
  /// take_lengths() brings back.
  KvCache part(int64_t first, int64_t count) const;
  void take_lengths(int64_t first, const KvCache& part);

  /// [B, G, capacity, H].
  const at::Tensor& keys(size_t layer) const { return keys_[layer]; }
  const at::Tensor& values(size_t layer) const { return values_[layer]; }

  /// From now on the lengths are those of positions(), int64 [B] where the cache is, which whoever
  /// takes a step moves on: no operator of a step then depends on how many tokens there are.
  /// lengths() stays as it is.
  void fix();
  bool is_fixed() const { return positions_B_.defined(); }
  /// Where each sequence's next token goes, within the capacity.
  const at::Tensor& positions() const { return positions_B_; }

 private:
  KvCache() = default;

  int64_t capacity_ = 0;
  std::vector<at::Tensor> keys_, values_;  // undefined where another stage has the layer
  std::vector<int64_t> lengths_;
  at::Tensor positions_B_;
};

}  // namespace trestle
