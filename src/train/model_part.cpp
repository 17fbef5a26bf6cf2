#include "train/model_part.h"

#include <algorithm>

#include "base/error.h"
#include "bridge/load_quantized.h"
#include "data/batch.h"
#include "data/overlong.h"
#include "metrics/flops.h"
#include "model/host_input.h"
#include "model/ministral3.h"
#include "train/training_data.h"

namespace trestle {

namespace {

// As many rows say what the data are like; the same on every rank.
constexpr int64_t kRowsToWeigh = 16;

StageLayout layout_of(const ModelOptions& options) {
  return {.in_first = options.num_layers_in_first_pipeline_stage.value_or(0),
          .in_last = options.num_layers_in_last_pipeline_stage.value_or(0),
          .counts_embedding = options.account_for_embedding_in_pipeline_split,
          .counts_loss = options.account_for_loss_in_pipeline_split};
}

LayerRuns runs_by_cost(const ModelOptions& options, const Topology& topology,
                       const std::function<PartCosts()>& costs) {
  if (topology.pipeline == 1) {
    user_error(
        "model.pipeline_split=cost has no effect with model.pipeline_model_parallel_size=1; "
        "leave it out");
  }
  const StageLayout layout = layout_of(options);
  if (layout.in_first > 0 || layout.in_last > 0 || layout.counts_embedding || layout.counts_loss) {
    user_error(
        "model.pipeline_split=cost and keys that say the stages' layers (model.num_layers_in_*, "
        "model.account_for_*) contradict each other; leave one out");
  }
  return levelled_runs(topology, costs());
}

}  // namespace

Build build_of_rank(const TrainConfig& config, const ModelConfig& model, const Grid& grid,
                    at::Device device, const std::function<PartCosts()>& costs) {
  Build build = base_build(config.dtype(), config.peft.base_bits, device);
  const Topology& topology = grid.topology;
  if (topology.world() == 1) return build;
  const TextConfig& text = model.text;
  require_topology(topology, sharded_sizes(text));
  build.groups.tensor = grid.tensor;
  build.groups.context = grid.context;
  build.groups.sequence_parallel = topology.sequence_parallel;
  if (config.peft.shard_base) build.base = grid.gradients;
  const ModelOptions& options = config.model;
  const LayerRuns runs = options.pipeline_split == "cost"
                             ? runs_by_cost(options, topology, costs)
                             : runs_of_layout(topology, text.num_layers, layout_of(options));
  if (topology.pipeline > 1) build.stage = stage_of_runs(topology, runs, grid.place.pipeline);
  return build;
}

void freeze(Ministral3& model, const ModelOptions& options) {
  for (const auto& entry : model.named_parameters()) {
    entry.value().requires_grad_(!options.freezes(entry.key()));
  }
}

PartCosts costs_on_first_rows(const TrainConfig& config, const ModelConfig& model,
                              const Processor& processor, const Dataset& dataset) {
  std::vector<Sample> samples;
  for (int64_t row = 0; row < std::min(dataset.size(), kRowsToWeigh); ++row) {
    auto sample = fit(processor, dataset.row(row), config.model.seq_length,
                      *overlong_of_name(config.dataset.overlong),
                      dataset.row_name(row, name_of_training_data(config)));
    if (sample) samples.push_back(std::move(*sample));
  }
  if (samples.empty()) {
    user_error(
        "model.pipeline_split=cost: none of the first {} rows of {} can be weighed; take "
        "model.pipeline_split=equal",
        kRowsToWeigh, name_of_training_data(config));
  }
  const Batch batch = collate(samples);
  return part_costs(model, batch.input, Targets::of(batch.labels_T).count(), [&](Ministral3& part) {
    if (!config.trains_adapters()) return freeze(part, config.model);
    // Adapters weigh little beside the frozen base.
    for (const at::Tensor& each : part.parameters()) {
      each.set_requires_grad(false);
    }
  });
}

bool is_counted(const Grid& grid, std::string_view name, bool shared_out) {
  const bool is_second_copy =
      !grid.is_first_stage() && name.ends_with("embedding.word_embeddings.weight");
  return !is_second_copy &&
         (shared_out || grid.place.tensor == 0 || split_of(name) != Split::kReplicated);
}

}  // namespace trestle
