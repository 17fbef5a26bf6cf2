#include "parallel/stages.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.h"

namespace trestle {

namespace {

constexpr const char* kFirst = "model.num_layers_in_first_pipeline_stage";
constexpr const char* kLast = "model.num_layers_in_last_pipeline_stage";
constexpr const char* kEmbedding = "model.account_for_embedding_in_pipeline_split";
constexpr const char* kLoss = "model.account_for_loss_in_pipeline_split";

LayerRuns runs_of_sizes(const std::vector<int64_t>& sizes) {
  LayerRuns runs;
  int64_t first = 0;
  for (const int64_t size : sizes) {
    runs.push_back({first, first + size});
    first += size;
  }
  return runs;
}

void require_even(int64_t layers, int64_t parts, const std::string& why) {
  if (layers >= parts && layers % parts == 0) return;
  user_error("{} layers cannot be shared out evenly over {} {}", layers, parts, why);
}

// Layers of each stage where the first and the last have numbers of their own.
std::vector<int64_t> layers_of_stages(const Topology& topology, int64_t layers,
                                      const StageLayout& layout) {
  const int64_t given = layout.in_first + layout.in_last;
  const int64_t others = topology.pipeline - (layout.in_first > 0) - (layout.in_last > 0);
  const std::string keys = fmt::format("behind {}={} and {}={} (0: as the others)", kFirst,
                                       layout.in_first, kLast, layout.in_last);
  if (others > 0) require_even(layers - given, others, "stages " + keys);
  if (others == 0 && given != layers) {
    user_error("the model has {} layers, {}={} and {}={} are {}", layers, kFirst, layout.in_first,
               kLast, layout.in_last, given);
  }
  std::vector<int64_t> sizes(static_cast<size_t>(topology.pipeline),
                             others > 0 ? (layers - given) / others : 0);
  if (layout.in_first > 0) sizes.front() = layout.in_first;
  if (layout.in_last > 0) sizes.back() = layout.in_last;
  return sizes;
}

}  // namespace

bool Stage::holds(int64_t layer) const {
  return std::ranges::any_of(
      chunks, [&](const LayerRun& run) { return run.first <= layer && layer < run.last; });
}

Stage stage_of_runs(const Topology& topology, const LayerRuns& runs, int64_t stage) {
  Stage part{{}, stage == 0, stage == topology.pipeline - 1};
  for (auto chunk = static_cast<size_t>(stage); chunk < runs.size();
       chunk += static_cast<size_t>(topology.pipeline)) {
    part.chunks.push_back(runs[chunk]);
  }
  return part;
}

LayerRuns equal_runs(const Topology& topology, int64_t layers) {
  LayerRuns runs;
  for (int64_t chunk = 0; chunk < topology.chunks(); ++chunk) {
    runs.push_back(layers_of_chunk(topology, layers, chunk));
  }
  return runs;
}

LayerRuns runs_of_layout(const Topology& topology, int64_t layers, const StageLayout& layout) {
  const bool counts = layout.counts_embedding || layout.counts_loss;
  const bool given = layout.in_first > 0 || layout.in_last > 0;
  if (!counts && !given) return equal_runs(topology, layers);
  if (topology.pipeline == 1) {
    user_error("{} has no effect with model.pipeline_model_parallel_size=1; leave it out",
               counts ? (layout.counts_embedding ? kEmbedding : kLoss)
                      : (layout.in_first > 0 ? kFirst : kLast));
  }
  if (counts && given) {
    user_error("{} and {} say layers of stages, and {} and {} how they are counted; give one pair",
               kFirst, kLast, kEmbedding, kLoss);
  }
  const int64_t chunks = topology.virtual_pipeline;
  std::vector<int64_t> stages;
  if (given) {
    stages = layers_of_stages(topology, layers, layout);
  } else {
    const int64_t counted = layers + layout.counts_embedding + layout.counts_loss;
    require_even(counted, topology.pipeline,
                 fmt::format("stages with {}={} and {}={}, which count as one each", kEmbedding,
                             layout.counts_embedding, kLoss, layout.counts_loss));
    stages.assign(static_cast<size_t>(topology.pipeline), counted / topology.pipeline);
  }
  std::vector<int64_t> sizes;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (const int64_t of_stage : stages) {
      require_even(of_stage, chunks,
                   fmt::format("chunks of model.virtual_pipeline_model_parallel_size={}", chunks));
      sizes.push_back(of_stage / chunks);
    }
  }
  sizes.front() -= layout.counts_embedding;
  sizes.back() -= layout.counts_loss;
  if (std::ranges::min(sizes) < 1) {
    user_error("{}={} and {}={} leave a stage without a layer; leave them out or take fewer stages",
               kEmbedding, layout.counts_embedding, kLoss, layout.counts_loss);
  }
  return runs_of_sizes(sizes);
}

LayerRuns levelled_runs(const Topology& topology, const PartCosts& costs) {
  const int64_t layers = std::ssize(costs.layers), chunks = topology.chunks();
  if (layers < chunks) {
    user_error("{} cuts the decoder into {} runs, but the model has {} layers", to_string(topology),
               chunks, layers);
  }
  std::vector<double> sums = {0};
  for (const double cost : costs.layers) sums.push_back(sums.back() + cost);
  const auto cost = [&](int64_t chunk, int64_t first, int64_t last) {
    return sums[static_cast<size_t>(last)] - sums[static_cast<size_t>(first)] +
           (chunk == 0 ? costs.before : 0) + (chunk == chunks - 1 ? costs.behind : 0);
  };
  // best[n]: the dearest of the chunks so far, over layers 0 .. n-1, at its least.
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> best(static_cast<size_t>(layers) + 1, kNever);
  best[0] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::vector<double> next(best.size(), kNever);
    for (int64_t last = chunk + 1; last <= layers; ++last) {
      for (int64_t first = chunk; first < last; ++first) {
        double& least = next[static_cast<size_t>(last)];
        least =
            std::min(least, std::max(best[static_cast<size_t>(first)], cost(chunk, first, last)));
      }
    }
    best = std::move(next);
  }
  const double bound = best.back() * (1 + 1e-12);
  LayerRuns runs(static_cast<size_t>(chunks));
  int64_t last = layers;
  for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
    int64_t first = chunk == 0 ? 0 : last - 1;
    while (chunk > 0 && first > chunk && cost(chunk, first - 1, last) <= bound) --first;
    runs[static_cast<size_t>(chunk)] = {first, last};
    last = first;
  }
  return runs;
}

double imbalance(const Topology& topology, const LayerRuns& runs, const PartCosts& costs) {
  std::vector<double> stages(static_cast<size_t>(topology.pipeline), 0);
  for (size_t chunk = 0; chunk < runs.size(); ++chunk) {
    for (int64_t i = runs[chunk].first; i < runs[chunk].last; ++i) {
      stages[chunk % stages.size()] += costs.layers[static_cast<size_t>(i)];
    }
  }
  stages.front() += costs.before;
  stages.back() += costs.behind;
  const double mean =
      std::accumulate(stages.begin(), stages.end(), 0.0) / static_cast<double>(stages.size());
  return std::ranges::max(stages) / mean;
}

}  // namespace trestle
