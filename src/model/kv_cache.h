// Keys and values of the tokens seen so far, one slab a layer, allocated once. Made by generate/,
// filled by attention.
#pragma once

#include <vector>

#include "model/config.h"
#include "model/linear.h"

namespace trestle {

class KvCache {
 public:
  /// Room for `capacity` tokens of each of `sequences` sequences.
  KvCache(const TextConfig& config, int64_t sequences, int64_t capacity, const Build& build);

  /// Tokens held of each sequence; they differ where prompts differ in length.
  const std::vector<int64_t>& lengths() const { return lengths_; }
  bool is_empty() const { return lengths_.empty() || longest() == 0; }
  int64_t longest() const;
  int64_t capacity() const { return keys_.front().size(2); }

  /// Stores one new token of each sequence behind its last: k and v [B, G, H].
  void append(size_t layer, const at::Tensor& k_BGH, const at::Tensor& v_BGH);
  /// Stores whole sequences into an empty cache: k and v [B, S, G, H], padded on the right;
  /// `lengths` are the true ones.
  void fill(size_t layer, const at::Tensor& k_BSGH, const at::Tensor& v_BSGH);
  /// Called once a forward, after the last layer: the new lengths hold.
  void advance(const std::vector<int64_t>& added);

  /// [B, G, capacity, H].
  const at::Tensor& keys(size_t layer) const { return keys_[layer]; }
  const at::Tensor& values(size_t layer) const { return values_[layer]; }

 private:
  std::vector<at::Tensor> keys_, values_;
  std::vector<int64_t> lengths_;
};

}  // namespace trestle
