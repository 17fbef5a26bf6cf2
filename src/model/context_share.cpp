#include "model/context_share.h"

#include <ATen/ATen.h>

#include "kernels/attention_product.h"
#include "model/host_input.h"
#include "parallel/collectives.h"

namespace trestle {

namespace {

int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// How long each row becomes, and one of padding alone where that is needed.
std::vector<int64_t> padded_lengths(const ModelInput& whole, int64_t context, int64_t spread) {
  const int64_t pieces = context == 1 ? 1 : 2 * context;
  std::vector<int64_t> lengths;
  int64_t tokens = 0;
  for (const int64_t length : whole.packing.lengths()) {
    lengths.push_back(rounded_up(length, pieces));
    tokens += lengths.back();
  }
  int64_t more = 0;
  while ((tokens + more) / context % spread != 0) more += pieces;
  if (more > 0) lengths.push_back(more);
  return lengths;
}

// Rows of `x` [T] at the start of rows that are longer, `fill` behind them.
at::Tensor padded(const at::Tensor& x_T, const std::vector<int64_t>& from,
                  const std::vector<int64_t>& to, int64_t fill) {
  std::vector<at::Tensor> parts;
  int64_t start = 0;
  for (size_t row = 0; row < to.size(); ++row) {
    const int64_t length = row < from.size() ? from[row] : 0;
    parts.push_back(x_T.narrow(0, start, length));
    parts.push_back(at::full({to[row] - length}, fill, x_T.options()));
    start += length;
  }
  return at::cat(parts);
}

}  // namespace

ContextShare ContextShare::of(const ModelInput& whole, int64_t image_token_id, RankOf who) {
  const int64_t last = 2 * who.ranks - 1;
  const auto owner = [&](int64_t piece) { return std::min(piece, last - piece); };
  const int64_t tokens_each = whole.packing.tokens() / who.ranks;
  std::vector<int64_t> tokens, places, query_lengths, key_lengths;
  int64_t row_start = 0;
  for (const int64_t length : whole.packing.lengths()) {
    const int64_t size = length / (last + 1);
    TORCH_CHECK(size * (last + 1) == length, "a row of ", length, " in ", last + 1, " pieces");
    for (const int64_t mine : {who.rank, last - who.rank}) {
      for (int64_t i = 0; i < size; ++i) tokens.push_back(row_start + mine * size + i);
      query_lengths.push_back(size);
      key_lengths.push_back((mine + 1) * size);
      for (int64_t piece = 0; piece <= mine; ++piece) {
        // A rank's tokens of this row: its earlier piece, then its later one.
        const int64_t first =
            owner(piece) * tokens_each + row_start / who.ranks + (piece < who.ranks ? 0 : size);
        for (int64_t i = 0; i < size; ++i) places.push_back(first + i);
      }
    }
    row_start += length;
  }
  ContextShare share;
  share.tokens = at::tensor(tokens, at::kLong);
  const at::Tensor numbers = whole.ids_T.eq(image_token_id).cumsum(0) - 1;
  const at::Tensor images = places_of(whole.ids_T.index_select(0, share.tokens), image_token_id);
  share.features = numbers.index_select(0, share.tokens.index_select(0, images));
  share.queries = Packing(std::move(query_lengths));
  share.keys = Packing(std::move(key_lengths));
  share.key_places = at::tensor(places, at::kLong);
  return share;
}

ContextShare ContextShare::to(at::Device device) const {
  ContextShare share = *this;
  share.queries = queries.to(device);
  share.keys = keys.to(device);
  share.key_places = to_device(key_places, device);
  return share;
}

RankBatch batch_of_rank(const ModelInput& whole, const at::Tensor& labels_T,
                        const ModelGroups& groups, bool spreads, int64_t image_token_id) {
  const RankOf who{groups.context.rank(), groups.context.size()};
  const int64_t spread = spreads ? groups.tensor.size() : 1;
  const std::vector<int64_t>& before = whole.packing.lengths();
  const std::vector<int64_t> lengths = padded_lengths(whole, who.ranks, spread);
  RankBatch batch{whole, labels_T};
  if (lengths != before) {
    const int64_t filler = image_token_id == 0 ? 1 : 0;
    batch.input =
        ModelInput::make(padded(whole.ids_T, before, lengths, filler), lengths, whole.images_CHW);
    batch.input.features = whole.features;
    batch.labels_T = padded(labels_T, before, lengths, -100);
  }
  if (who.ranks == 1) return batch;
  ModelInput& input = batch.input;
  auto share = std::make_shared<const ContextShare>(ContextShare::of(input, image_token_id, who));
  input.ids_T = input.ids_T.index_select(0, share->tokens);
  input.positions_T = input.positions_T.index_select(0, share->tokens);
  batch.labels_T = batch.labels_T.index_select(0, share->tokens);
  input.packing = share->queries;
  input.context = std::move(share);
  return batch;
}

at::Tensor context_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                             const at::Tensor& v_TGH, const ContextShare& share,
                             const Group& context) {
  const at::Tensor all =
      gather_from(at::stack({k_TGH, v_TGH}, 1), context).index_select(0, share.key_places);
  const at::Tensor keys = all.select(1, 0), values = all.select(1, 1);
  if (PackedAttention::supported().takes(q_TGNH.device().type(), q_TGNH.scalar_type(),
                                         q_TGNH.size(-1))) {
    return packed_attention(q_TGNH.flatten(1, 2), keys, values,
                            {share.queries.offsets(), share.queries.longest()},
                            {share.keys.offsets(), share.keys.longest()}, /*causal=*/true)
        .flatten(1);
  }
  std::vector<at::Tensor> outputs;
  int64_t query = 0, key = 0;
  for (size_t piece = 0; piece < share.queries.lengths().size(); ++piece) {
    const int64_t Q = share.queries.lengths()[piece], K = share.keys.lengths()[piece];
    const auto heads = [](const at::Tensor& x_SNH) { return x_SNH.transpose(0, 1).unsqueeze(0); };
    const at::Tensor mask = at::ones({Q, K}, q_TGNH.options().dtype(at::kBool)).tril(K - Q);
    outputs.push_back(at::scaled_dot_product_attention(
                          heads(q_TGNH.narrow(0, query, Q).flatten(1, 2)),
                          heads(keys.narrow(0, key, K)), heads(values.narrow(0, key, K)), mask,
                          /*dropout_p=*/0.0, /*is_causal=*/false, /*scale=*/std::nullopt,
                          /*enable_gqa=*/q_TGNH.size(2) != 1)
                          .squeeze(0)
                          .transpose(0, 1)
                          .flatten(1));
    query += Q;
    key += K;
  }
  return at::cat(outputs);
}

}  // namespace trestle
