#include "batches/levelling.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <optional>

namespace trestle {

namespace {

// Multiplications of a layer's products, for one token.
int64_t products(int64_t hidden, int64_t attended, int64_t keys, int64_t intermediate) {
  return hidden * (2 * attended + 2 * keys) + 3 * hidden * intermediate;
}

struct Exchange {
  size_t from = 0;
  std::optional<size_t> back;
  int64_t moved = 0;  // cost, from the one to the other
};

// What moves about half of `gap` from rank `most` to rank `least`: one sample, or one for another.
std::optional<Exchange> best_exchange(const std::vector<int64_t>& costs,
                                      const std::vector<int64_t>& owners, int64_t most,
                                      int64_t least, int64_t gap) {
  std::optional<Exchange> best;
  const auto look = [&](size_t from, std::optional<size_t> back) {
    const int64_t moved = costs[from] - (back ? costs[*back] : 0);
    if (moved <= 0 || moved >= gap) return;
    if (!best || std::abs(2 * moved - gap) < std::abs(2 * best->moved - gap)) {
      best = {from, back, moved};
    }
  };
  for (size_t i = 0; i < costs.size(); ++i) {
    if (owners[i] != most) continue;
    look(i, std::nullopt);
    for (size_t j = 0; j < costs.size(); ++j) {
      if (owners[j] == least) look(i, j);
    }
  }
  return best;
}

}  // namespace

int64_t cost_of(const Sample& sample, const ModelConfig& config, bool runs_tower) {
  const TextConfig& text = config.text;
  const auto tokens = static_cast<int64_t>(sample.ids.size());
  const int64_t attended = text.num_attention_heads * text.head_dim;
  int64_t cost = text.num_layers *
                 (tokens * products(text.hidden_size, attended,
                                    text.num_query_groups * text.head_dim, text.intermediate_size) +
                  tokens * (tokens + 1) * attended);
  cost += sample.targets() * text.hidden_size * text.vocab_size;
  if (!runs_tower || !config.vision) return cost;
  const VisionConfig& vision = *config.vision;
  const int64_t seen = vision.num_attention_heads * vision.head_dim;
  for (const at::Tensor& image : sample.images_CHW) {
    const int64_t patches =
        (image.size(1) / vision.patch_size) * (image.size(2) / vision.patch_size);
    cost += vision.num_layers *
            (patches * products(vision.hidden_size, seen, seen, vision.intermediate_size) +
             2 * patches * patches * seen);
  }
  return cost;
}

std::vector<int64_t> levelled(const std::vector<int64_t>& costs, std::vector<int64_t> owners,
                              int64_t ranks) {
  std::vector<int64_t> load(static_cast<size_t>(ranks), 0);
  for (size_t i = 0; i < costs.size(); ++i) load[static_cast<size_t>(owners[i])] += costs[i];
  const int64_t share = std::accumulate(load.begin(), load.end(), int64_t{0}) / ranks;
  for (size_t turn = 0; turn < 2 * costs.size(); ++turn) {
    const auto most = std::ranges::max_element(load), least = std::ranges::min_element(load);
    const int64_t gap = *most - *least;
    if (gap <= share / 20) break;
    const auto exchange =
        best_exchange(costs, owners, most - load.begin(), least - load.begin(), gap);
    if (!exchange) break;
    owners[exchange->from] = least - load.begin();
    if (exchange->back) owners[*exchange->back] = most - load.begin();
    *most -= exchange->moved;
    *least += exchange->moved;
  }
  return owners;
}

}  // namespace trestle
