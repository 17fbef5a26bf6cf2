#include "train/ranks.h"

#include <numeric>

#include "base/error.h"
#include "kernels/device.h"
#include "parallel/world.h"

namespace trestle {

Topology topology_of(const TrainConfig& config, int64_t world) {
  if (world == 1) return {};
  const ModelOptions& model = config.model;
  return over_world({.tensor = model.tensor_model_parallel_size,
                     .context = model.context_parallel_size,
                     .pipeline = model.pipeline_model_parallel_size,
                     .virtual_pipeline = model.virtual_pipeline_model_parallel_size,
                     .sequence_parallel = model.sequence_parallel},
                    world);
}

std::string device_of_rank(const std::string& device, const World& world) {
  const bool has_choice = device == "cuda" || (device == "auto" && cards_here().count > 0);
  return world.size() == 1 || !has_choice ? device : fmt::format("cuda:{}", world.local_rank());
}

Ranks::Ranks(const World& world, const Topology& topology, at::Device device)
    : rank(world.rank()), size(world.size()) {
  if (size == 1) return;
  grid = Grid(world, topology, device);
  std::vector<int64_t> everyone(static_cast<size_t>(size));
  std::iota(everyone.begin(), everyone.end(), int64_t{0});
  saving = world.group("saving", everyone, at::kCPU);
  sample_ranks.clear();
  for (Place place = grid.place; std::ssize(sample_ranks) < topology.data;) {
    place.data = std::ssize(sample_ranks);
    sample_ranks.push_back(rank_of(topology, place));
  }
}

}  // namespace trestle
