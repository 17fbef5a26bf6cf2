#include "model/attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/attention_product.h"

namespace trestle {

namespace {

AttentionPath path_of(const at::Tensor& k_TGH, const Packing& packing) {
  return attention_path(packing, k_TGH.device().type(), k_TGH.scalar_type(), k_TGH.size(-1));
}

at::Tensor causal_padded(const at::Tensor& q_BSGNH, const at::Tensor& k_BSGH,
                         const at::Tensor& v_BSGH) {
  // Padding lies on the right, so causality alone keeps true queries from padded keys.
  return attention_product(q_BSGNH.flatten(2, 3).transpose(1, 2), k_BSGH.transpose(1, 2),
                           v_BSGH.transpose(1, 2), /*causal=*/true)
      .transpose(1, 2)
      .flatten(2);
}

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
    const at::Tensor last = at::tensor(lengths, at::kLong).to(q_BGNH.device());
    mask =
        at::arange(span, last.options()).unsqueeze(0).le(last.unsqueeze(1)).view({-1, 1, 1, span});
  }
  return at::scaled_dot_product_attention(q_BGNH, keys, values, mask).flatten(1);
}

}  // namespace

AttentionPath attention_path(const Packing& packing, at::DeviceType device, at::ScalarType dtype,
                             int64_t head_dim) {
  if (!PackedAttention::supported().takes(device, dtype, head_dim)) return AttentionPath::kPadded;
  const bool is_planned = packing.uniform() && packing.longest() >= kPlannedTokens;
  return is_planned ? AttentionPath::kPadded : AttentionPath::kPacked;
}

at::Tensor causal_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing) {
  if (path_of(k_TGH, packing) == AttentionPath::kPacked) {
    return packed_attention(q_TGNH.flatten(1, 2), k_TGH, v_TGH, packing.offsets(),
                            packing.longest(), /*causal=*/true)
        .flatten(1);
  }
  if (packing.runs().empty()) {
    return packing.unpad(
        causal_padded(packing.pad(q_TGNH), packing.pad(k_TGH), packing.pad(v_TGH)));
  }
  std::vector<at::Tensor> outputs;
  int64_t start = 0;
  for (const Packing& run : packing.runs()) {
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, start, run.tokens()); };
    outputs.push_back(causal_attention(rows(q_TGNH), rows(k_TGH), rows(v_TGH), run));
    start += run.tokens();
  }
  return at::cat(outputs);
}

at::Tensor cached_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                            const at::Tensor& v_TGH, const Packing& packing, KvCache& cache,
                            size_t layer) {
  if (cache.is_empty()) {
    const at::Tensor k_BSGH = packing.pad(k_TGH);
    const at::Tensor v_BSGH = packing.pad(v_TGH);
    cache.fill(layer, k_BSGH, v_BSGH);
    return packing.unpad(causal_padded(packing.pad(q_TGNH), k_BSGH, v_BSGH));
  }
  TORCH_CHECK(packing.longest() == 1, "behind a filled cache one token a sequence is taken, not ",
              packing.longest());
  cache.append(layer, k_TGH, v_TGH);
  return decode_step(q_TGNH, cache, layer);
}

at::Tensor block_attention(const at::Tensor& q_PNH, const at::Tensor& k_PNH,
                           const at::Tensor& v_PNH, const Packing& packing) {
  if (path_of(k_PNH, packing) == AttentionPath::kPacked) {
    return packed_attention(q_PNH, k_PNH, v_PNH, packing.offsets(), packing.longest(),
                            /*causal=*/false)
        .flatten(1);
  }
  const auto attend = [](const at::Tensor& q_BPNH, const at::Tensor& k_BPNH,
                         const at::Tensor& v_BPNH) {
    return attention_product(q_BPNH.transpose(1, 2), k_BPNH.transpose(1, 2), v_BPNH.transpose(1, 2),
                             /*causal=*/false)
        .transpose(1, 2)
        .flatten(2)
        .flatten(0, 1);
  };
  // Neighbours of one size go together; images of different sizes would need a mask over all pairs
  // of patches.
  std::vector<at::Tensor> outputs;
  const auto& lengths = packing.lengths();
  int64_t start = 0;
  for (size_t i = 0; i < lengths.size();) {
    size_t end = i + 1;
    while (end < lengths.size() && lengths[end] == lengths[i]) ++end;
    const auto count = static_cast<int64_t>(end - i);
    const auto block = [&](const at::Tensor& x) {
      return x.narrow(0, start, count * lengths[i]).unflatten(0, {count, lengths[i]});
    };
    outputs.push_back(attend(block(q_PNH), block(k_PNH), block(v_PNH)));
    start += count * lengths[i];
    i = end;
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs);
}

}  // namespace trestle
