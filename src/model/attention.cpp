#include "model/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

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
    const SequenceRows rows{packing.offsets(), packing.longest()};
    return packed_attention(q_TGNH.flatten(1, 2), k_TGH, v_TGH, rows, rows, /*causal=*/true)
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

at::Tensor block_attention(const at::Tensor& q_PNH, const at::Tensor& k_PNH,
                           const at::Tensor& v_PNH, const Packing& packing) {
  if (path_of(k_PNH, packing) == AttentionPath::kPacked) {
    const SequenceRows rows{packing.offsets(), packing.longest()};
    return packed_attention(q_PNH, k_PNH, v_PNH, rows, rows, /*causal=*/false).flatten(1);
  }
  const auto attend = [](const at::Tensor& q_BPNH, const at::Tensor& k_BPNH,
                         const at::Tensor& v_BPNH) {
    return attention_product(q_BPNH.transpose(1, 2), k_BPNH.transpose(1, 2), v_BPNH.transpose(1, 2),
                             /*causal=*/false)
        .transpose(1, 2)
        .flatten(2)
        .flatten(0, 1);
  };
  // Images of one size go together; of different sizes they would need a mask over all pairs of
  // patches.
  std::map<int64_t, std::vector<size_t>> of_size;
  std::vector<at::Tensor> outputs;
  std::vector<int64_t> starts;
  int64_t start = 0;
  for (const int64_t length : packing.lengths()) {
    of_size[length].push_back(starts.size());
    starts.push_back(start);
    start += length;
  }
  outputs.resize(starts.size());
  for (const auto& [length, images] : of_size) {
    const auto count = static_cast<int64_t>(images.size());
    const bool beside = starts[images.back()] - starts[images.front()] == (count - 1) * length;
    const auto together = [&](const at::Tensor& x) {
      if (beside) return x.narrow(0, starts[images.front()], count * length);
      std::vector<at::Tensor> parts;
      for (const size_t i : images) parts.push_back(x.narrow(0, starts[i], length));
      return at::cat(parts);
    };
    const auto block = [&](const at::Tensor& x) {
      return together(x).unflatten(0, {count, length});
    };
    const auto attended = attend(block(q_PNH), block(k_PNH), block(v_PNH)).split(length);
    for (size_t i = 0; i < images.size(); ++i) outputs[images[i]] = attended[i];
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs);
}

}  // namespace trestle
