#include "model/cached_attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cache_attention.h"
#include "kernels/decode_attention.h"
#include "model/attention.h"
#include "model/host_input.h"

namespace trestle {

namespace {

// One new token a sequence against the cache. The heads of a group stand as query rows of one
// matrix, so that the group's keys are read once (9 to 12 times faster on a CPU than repeating keys
// for each head).
at::Tensor decode_step(const at::Tensor& q_BGNH, const KvCache& cache, size_t layer) {
  const int64_t span = cache.longest() + 1;
  const at::Tensor keys = cache.keys(layer).narrow(2, 0, span);
  const at::Tensor values = cache.values(layer).narrow(2, 0, span);
  std::optional<at::Tensor> mask;
  const auto& lengths = cache.lengths();
  if (std::any_of(lengths.begin(), lengths.end(), [&](int64_t n) { return n + 1 != span; })) {
    const at::Tensor last = to_device(at::tensor(lengths, at::kLong), q_BGNH.device());
    mask =
        at::arange(span, last.options()).unsqueeze(0).le(last.unsqueeze(1)).view({-1, 1, 1, span});
  }
  return at::scaled_dot_product_attention(q_BGNH, keys, values, mask).flatten(1);
}

// Tokens of a sequence that attend at a time: a mask has as many rows for each head of a group.
constexpr int64_t kQueryBlock = 64;

// Tokens [before, before + C) of sequence b, whose keys are in the cache with all before them:
// q [C, G, N, H] -> [C, G*N*H]. The heads of a group stand as query rows of one matrix.
at::Tensor attend_behind(const at::Tensor& q_CGNH, const KvCache& cache, size_t layer, int64_t b,
                         int64_t before) {
  const int64_t C = q_CGNH.size(0), G = q_CGNH.size(1), N = q_CGNH.size(2), span = before + C;
  const auto held = [&](const at::Tensor& slab) { return slab.narrow(0, b, 1).narrow(2, 0, span); };
  const at::Tensor key = at::arange(span, q_CGNH.options().dtype(at::kLong));
  const at::Tensor token = key.narrow(0, before, C).view({C, 1, 1});
  const at::Tensor mask = key.le(token).expand({C, N, span}).reshape({C * N, span});
  const at::Tensor q = q_CGNH.transpose(0, 1).reshape({1, G, C * N, -1});
  return at::scaled_dot_product_attention(q, held(cache.keys(layer)), held(cache.values(layer)),
                                          mask)
      .view({G, C, N, -1})
      .transpose(0, 1)
      .reshape({C, -1});
}

// Several new tokens a sequence, which the cache has already.
at::Tensor extend(const at::Tensor& q_TGNH, const Packing& packing, const KvCache& cache,
                  size_t layer) {
  std::vector<at::Tensor> outputs;
  int64_t start = 0;
  for (int64_t b = 0; b < packing.sequences(); ++b) {
    const int64_t added = packing.lengths()[static_cast<size_t>(b)];
    for (int64_t first = 0; first < added; first += kQueryBlock) {
      const int64_t count = std::min(kQueryBlock, added - first);
      outputs.push_back(attend_behind(q_TGNH.narrow(0, start + first, count), cache, layer, b,
                                      cache.lengths()[static_cast<size_t>(b)] + first));
    }
    start += added;
  }
  return at::cat(outputs);
}

}  // namespace

at::Tensor cached_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing, KvCache& cache,
                            size_t layer) {
  if (cache.is_fixed()) {
    return decode_attention(q_TGNH, k_TGH, v_TGH, cache.keys(layer), cache.values(layer),
                            cache.positions());
  }
  if (cache.is_empty()) {
    cache.fill(layer, packing.pad(k_TGH), packing.pad(v_TGH));
    return causal_attention(q_TGNH, k_TGH, v_TGH, packing);
  }
  cache.append(layer, k_TGH, v_TGH, packing);
  if (takes_cache_attention(q_TGNH, packing.lengths())) {
    return cache_attention(q_TGNH, cache.keys(layer), cache.values(layer), cache.lengths(),
                           packing.lengths());
  }
  return packing.longest() == 1 ? decode_step(q_TGNH, cache, layer)
                                : extend(q_TGNH, packing, cache, layer);
}

}  // namespace trestle
