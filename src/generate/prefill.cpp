#include "generate/prefill.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/host_input.h"
#include "model/kv_cache.h"

namespace trestle {

namespace {

at::Tensor last_rows(const at::Tensor& x_TD, const std::vector<int64_t>& lengths) {
  if (!x_TD.defined()) return {};
  std::vector<int64_t> rows;
  int64_t end = 0;
  for (const int64_t length : lengths) rows.push_back((end += length) - 1);
  return x_TD.index_select(0, to_device(at::tensor(rows, at::kLong), x_TD.device()));
}

}  // namespace

std::vector<PrefillChunk> prefill_chunks(const std::vector<int64_t>& lengths, int64_t most) {
  TORCH_CHECK(most > 0, "a chunk has at least one token");
  std::vector<PrefillChunk> chunks;
  int64_t token = 0, room = 0;
  for (size_t b = 0; b < lengths.size(); ++b) {
    // Parts of a sequence are chunks of their own.
    const bool joins = lengths[b] <= room;
    for (int64_t left = lengths[b]; left > 0;) {
      const int64_t count = std::min(left, most);
      if (!joins) chunks.push_back({static_cast<int64_t>(b), token, {}});
      chunks.back().lengths.push_back(count);
      left -= count;
      token += count;
    }
    room = lengths[b] > most ? 0 : (joins ? room : most) - lengths[b];
  }
  return chunks;
}

at::Tensor prefill(const Forward& forward, const ModelInput& prompts, int64_t chunk_size,
                   KvCache& cache) {
  const auto& lengths = prompts.packing.lengths();
  if (prompts.packing.tokens() <= chunk_size) {
    return last_rows(forward.hidden(prompts, cache), lengths);
  }
  const at::Tensor embedded_TD = forward.embed(prompts);
  // Of a sequence in parts the last one stays.
  std::vector<at::Tensor> last(lengths.size());
  for (const PrefillChunk& chunk : prefill_chunks(lengths, chunk_size)) {
    const Packing packing(chunk.lengths);
    const auto tokens = [&](const at::Tensor& x) {
      return x.defined() ? x.narrow(0, chunk.first_token, packing.tokens()) : x;
    };
    const ModelInput input{tokens(prompts.ids_T), tokens(prompts.positions_T), packing, {}};
    KvCache part = cache.part(chunk.first_sequence, packing.sequences());
    const at::Tensor rows =
        last_rows(forward.hidden_from(tokens(embedded_TD), input, part), chunk.lengths);
    cache.take_lengths(chunk.first_sequence, part);
    if (!rows.defined()) continue;
    for (int64_t i = 0; i < packing.sequences(); ++i) {
      last[static_cast<size_t>(chunk.first_sequence + i)] = rows.narrow(0, i, 1);
    }
  }
  return last.front().defined() ? at::cat(last) : at::Tensor();
}

}  // namespace trestle
