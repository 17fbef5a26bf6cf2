#include "train/ranks.h"

#include "base/error.h"
#include "kernels/device.h"
#include "parallel/world.h"

namespace trestle {

namespace {

// The ranks that differ from `place` in data alone, and with `whole` in tensor and context too.
std::vector<int64_t> ranks_beside(const Topology& topology, const Place& place, bool whole) {
  std::vector<int64_t> ranks;
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    Place other = place_of(topology, rank);
    other.data = place.data;
    if (whole) {
      other.tensor = place.tensor;
      other.context = place.context;
    }
    if (other == place) ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace

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
  std::vector<int64_t> everyone;
  for (int64_t i = 0; i < size; ++i) everyone.push_back(i);
  all = world.group("decisions", everyone, at::kCPU);
  saving = world.group("saving", everyone, at::kCPU);
  sample_ranks = ranks_beside(topology, grid.place, /*whole=*/false);
  samples = world.group("samples", sample_ranks, at::kCPU);
  parameters =
      world.group("parameters", ranks_beside(topology, grid.place, /*whole=*/true), at::kCPU);
}

}  // namespace trestle
