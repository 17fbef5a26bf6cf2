#include "model/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/host_input.h"

namespace trestle {

KvCache::KvCache(const TextConfig& config, int64_t sequences, int64_t capacity, const Build& build)
    : capacity_(capacity), lengths_(static_cast<size_t>(sequences), 0) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const bool here = !build.stage || build.stage->holds(layer);
    for (auto* slab : {&keys_, &values_}) {
      slab->emplace_back();
      if (!here) continue;
      // Zeros: what lies behind a shorter sequence has no weight, but no weight times NaN is NaN.
      slab->back() = build
                         .empty({sequences, config.num_query_groups / build.groups.tensor.size(),
                                 capacity, config.head_dim})
                         .zero_();
    }
  }
}

int64_t KvCache::longest() const { return *std::max_element(lengths_.begin(), lengths_.end()); }

void KvCache::append(size_t layer, const at::Tensor& k_TGH, const at::Tensor& v_TGH,
                     const Packing& packing) {
  int64_t start = 0;
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const int64_t added = packing.lengths()[b];
    TORCH_CHECK(lengths_[b] + added <= capacity(), "the cache holds ", capacity(), " tokens, not ",
                lengths_[b] + added);
    const auto copy = [&](const at::Tensor& slab, const at::Tensor& x_TGH) {
      slab.select(0, static_cast<int64_t>(b))
          .narrow(1, lengths_[b], added)
          .copy_(x_TGH.narrow(0, start, added).transpose(0, 1));
    };
    copy(keys_[layer], k_TGH);
    copy(values_[layer], v_TGH);
    start += added;
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

void KvCache::truncate(const std::vector<int64_t>& lengths) {
  TORCH_CHECK(lengths.size() == lengths_.size(), "a length for each sequence");
  for (size_t b = 0; b < lengths_.size(); ++b) {
    TORCH_CHECK(lengths[b] >= 0 && lengths[b] <= lengths_[b], "a cache is cut to at most what it ",
                "holds: ", lengths_[b], ", not ", lengths[b]);
  }
  lengths_ = lengths;
}

KvCache KvCache::part(int64_t first, int64_t count) const {
  const auto of = [&](const at::Tensor& slab) {
    return slab.defined() ? slab.narrow(0, first, count) : slab;
  };
  KvCache part;
  part.capacity_ = capacity_;
  for (size_t layer = 0; layer < keys_.size(); ++layer) {
    part.keys_.push_back(of(keys_[layer]));
    part.values_.push_back(of(values_[layer]));
  }
  part.lengths_.assign(lengths_.begin() + first, lengths_.begin() + first + count);
  return part;
}

void KvCache::take_lengths(int64_t first, const KvCache& part) {
  std::copy(part.lengths_.begin(), part.lengths_.end(), lengths_.begin() + first);
}

void KvCache::fix() {
  positions_B_ = to_device(at::tensor(lengths_, at::kLong), keys_.front().device());
}

}  // namespace trestle
