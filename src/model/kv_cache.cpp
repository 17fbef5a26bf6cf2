#include "model/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle {

KvCache::KvCache(const TextConfig& config, int64_t sequences, int64_t capacity, const Build& build)
    : lengths_(static_cast<size_t>(sequences), 0) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (auto* slab : {&keys_, &values_}) {
      // Zeros: what lies behind a shorter sequence has no weight, but no weight times NaN is NaN.
      slab->push_back(
          build.empty({sequences, config.num_query_groups, capacity, config.head_dim}).zero_());
    }
  }
}

int64_t KvCache::longest() const { return *std::max_element(lengths_.begin(), lengths_.end()); }

void KvCache::append(size_t layer, const at::Tensor& k_BGH, const at::Tensor& v_BGH) {
  TORCH_CHECK(longest() < capacity(), "the cache holds ", capacity(), " tokens and is full");
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const auto row = static_cast<int64_t>(b);
    keys_[layer].select(0, row).select(1, lengths_[b]).copy_(k_BGH.select(0, row));
    values_[layer].select(0, row).select(1, lengths_[b]).copy_(v_BGH.select(0, row));
  }
}

void KvCache::fill(size_t layer, const at::Tensor& k_BSGH, const at::Tensor& v_BSGH) {
  TORCH_CHECK(k_BSGH.size(1) <= capacity(), "the cache holds ", capacity(), " tokens, not ",
              k_BSGH.size(1));
  keys_[layer].narrow(2, 0, k_BSGH.size(1)).copy_(k_BSGH.transpose(1, 2));
  values_[layer].narrow(2, 0, v_BSGH.size(1)).copy_(v_BSGH.transpose(1, 2));
}

void KvCache::advance(const std::vector<int64_t>& added) {
  for (size_t b = 0; b < lengths_.size(); ++b) lengths_[b] += added[b];
}

}  // namespace trestle
