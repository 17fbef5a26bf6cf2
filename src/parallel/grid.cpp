#include "parallel/grid.h"

#include <fmt/format.h>

#include "base/error.h"
#include "parallel/world.h"

namespace trestle {

namespace {

// The ranks whose places differ from `place` along the axes of `free` alone, in rank order.
std::vector<int64_t> ranks_along(const Topology& topology, const Place& place, const Place& free) {
  std::vector<int64_t> ranks;
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    const Place other = place_of(topology, rank);
    if ((free.tensor != 0 || other.tensor == place.tensor) &&
        (free.context != 0 || other.context == place.context) &&
        (free.data != 0 || other.data == place.data) &&
        (free.pipeline != 0 || other.pipeline == place.pipeline)) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

}  // namespace

Place place_of(const Topology& topology, int64_t rank) {
  Place place;
  place.tensor = rank % topology.tensor;
  rank /= topology.tensor;
  place.context = rank % topology.context;
  rank /= topology.context;
  place.data = rank % topology.data;
  place.pipeline = rank / topology.data;
  return place;
}

int64_t rank_of(const Topology& topology, const Place& place) {
  return ((place.pipeline * topology.data + place.data) * topology.context + place.context) *
             topology.tensor +
         place.tensor;
}

Grid::Grid(const World& ranks, const Topology& asked, at::Device device)
    : topology(asked), place(place_of(asked, ranks.rank())) {
  if (asked.world() != ranks.size()) {
    user_error("{} ranks run but {} takes {}; start as many", ranks.size(), to_string(asked),
               asked.world());
  }
  const auto along = [&](const char* name, const Place& free) {
    return ranks.group(name, ranks_along(topology, place, free), device);
  };
  tensor = along("tensor", {.tensor = 1});
  context = along("context", {.context = 1});
  data = along("data", {.data = 1});
  pipeline = along("pipeline", {.pipeline = 1});
  gradients = along("gradients", {.context = 1, .data = 1});
  whole_gradients = along("whole_gradients", {.tensor = 1, .context = 1, .data = 1});
  model = along("model", {.tensor = 1, .pipeline = 1});
  world = along("world", {1, 1, 1, 1});
  if (topology.pipeline > 1 && (is_first_stage() || is_last_stage())) {
    Place first = place, last = place;
    first.pipeline = 0;
    last.pipeline = topology.pipeline - 1;
    embedding =
        ranks.group("embedding", {rank_of(topology, first), rank_of(topology, last)}, device);
  }
}

}  // namespace trestle
