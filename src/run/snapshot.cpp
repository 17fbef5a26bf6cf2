#include "run/snapshot.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/error.h"
#include "checkpoint/save_record.h"
#include "megatron/shard_writer.h"
#include "model/ministral3.h"
#include "peft/megatron_adapter.h"
#include "recipes/schedule.h"
#include "run/held_tensors.h"
#include "run/random_state.h"
#include "run/save_contents.h"

namespace trestle {

namespace {

Json schedule_state(const TrainConfig& config, const RunProgress& progress) {
  return {{"max_lr", config.optimizer.lr},
          {"min_lr", config.optimizer.min_lr},
          {"lr_warmup_steps", std::llround(warmup_steps(config) *
                                           static_cast<double>(config.train.global_batch_size))},
          {"lr_decay_style", config.scheduler.lr_decay_style},
          {"lr_decay_steps", decay_steps(config) * config.train.global_batch_size},
          // The scheduler's own count, which begins again with the optimizer.
          {"num_steps", progress.consumed_samples - progress.schedule_samples},
          {"start_wd", config.scheduler.start_weight_decay.value_or(config.optimizer.weight_decay)},
          {"end_wd", config.scheduler.end_weight_decay.value_or(config.optimizer.weight_decay)},
          {"wd_incr_style", config.scheduler.weight_decay_incr_style},
          {"wd_incr_steps", config.train.train_iters * config.train.global_batch_size}};
}

// One group per weight-decay class, as megatron-core writes them, and with LoRA+ per rate.
Json optimizer_state(const TrainConfig& config, const RunProgress& progress, int64_t updates) {
  Json groups = Json::array();
  const double ratio = config.peft.lora_plus_ratio;
  const int64_t next = progress.step - progress.schedule_start + 1;
  const auto add = [&](double multiplier, double rate) {
    groups.push_back({{"is_expert_parallel", false},
                      {"default_config", true},
                      {"wd_mult", multiplier},
                      {"lr_mult", rate},
                      {"is_decoupled_lr", false},
                      {"max_lr", config.optimizer.lr * rate},
                      {"min_lr", config.optimizer.min_lr * rate},
                      {"lr", learning_rate(config, next) * rate},
                      {"bias_correction", true},
                      {"betas", {config.optimizer.adam_beta1, config.optimizer.adam_beta2}},
                      {"eps", config.optimizer.adam_eps},
                      {"weight_decay", weight_decay(config, next) * multiplier},
                      {"step", updates}});
  };
  for (const double multiplier : {1.0, 0.0}) {
    add(multiplier, 1.0);
    if (ratio != 1) add(multiplier, ratio);
  }
  return {{"optimizer", {{"param_groups", groups}}},
          {"param_state_sharding_type", "fully_reshardable"}};
}

Json progress_state(const RunProgress& progress, const RunIdentity& identity) {
  Json state = {{"skipped", progress.skipped},
                {"skipped_on_end", progress.skipped_on_end},
                {"recent_losses", progress.recent_losses},
                {"began", {{"step", progress.began.step}, {"samples", progress.began.samples}}},
                {"identity", identity.to_json()}};
  if (progress.schedule_start > 0) {
    state["schedule_start"] = progress.schedule_start;
    state["schedule_samples"] = progress.schedule_samples;
    state["skipped_before"] = progress.skipped_before;
  }
  if (progress.blend_start.sample > 0) {
    state["blend_start"] = {{"sample", progress.blend_start.sample},
                            {"taken", progress.blend_start.taken},
                            {"numbers", progress.blend_start.numbers}};
  }
  if (!progress.former_best.empty()) state["former_best"] = progress.former_best;
  if (progress.best) {
    state["best_step"] = progress.best->step;
    state["best_metric"] = progress.best->metric;
    state["best_value"] = progress.best->value;
    state["best_measured_on"] = progress.best->measured_on;
  }
  return state;
}

// What integrity.json does not say of the files that the save will write.
SaveRecord record_of(const RunProgress& progress, const OpenCheckpoint& base,
                     const std::optional<HuggingFaceFolder>& folder) {
  SaveRecord record{.lineage = progress.lineage, .step = progress.step};
  for (const std::filesystem::path& file : base.side_files()) {
    record.tokenizer.insert(file.filename().string());
  }
  if (folder) record.hf = folder->side_files;
  return record;
}

at::Tensor copy_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().contiguous();
  return plain.to(at::kCPU, plain.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
}

// Of the topology what Megatron's own checkpoints say.
void add_topology(const Topology& topology, MegatronOutput& output) {
  output.tensor_parallel = topology.tensor;
  output.pipeline_parallel = topology.pipeline;
  if (topology.context > 1) {
    output.run_config["model"]["context_parallel_size"] = topology.context;
  }
}

}  // namespace

Snapshot take_snapshot(const TrainConfig& config, const Ministral3& model, const AdamW& optimizer,
                       const RunProgress& progress, const RunIdentity& identity,
                       const OpenCheckpoint& base, const std::optional<HuggingFaceFolder>& folder,
                       bool copied, const ShardPlan& plan) {
  std::optional<LoraConfig> adapters;
  // A later stage may have no place for any; the first stage's rank says what all have.
  if (config.trains_adapters())
    adapters = has_adapters(model) ? lora_config_of(model) : config.peft;
  Json run_config = record_of(progress, base, folder).to_json();
  run_config["checkpoint"] = {{"pretrained_checkpoint", config.checkpoint.pretrained_checkpoint}};
  if (adapters) run_config["peft"] = peft_run_config(*adapters);
  Json common = Json::object();
  if (config.checkpoint.save_optim) {
    common = {{"opt_param_scheduler", schedule_state(config, progress)},
              {"optimizer", optimizer_state(config, progress, optimizer.steps())}};
  }
  Snapshot snapshot{
      .output = {.run = config.checkpoint.save,
                 .iteration = progress.step,
                 .config = model.config(),
                 .hf_config = base.config_json(),
                 .tokenizer_files = base.side_files(),
                 .common_state = std::move(common),
                 .train_state = {{"step", progress.step},
                                 {"consumed_train_samples", progress.consumed_samples}},
                 .run_config = std::move(run_config),
                 .replace = true},
      .progress = progress,
      .identity = identity};
  add_topology(plan.topology(), snapshot.output);
  std::vector<HeldTensor> held = held_weights(model, config.trains_adapters(), plan);
  const auto add = [&](std::vector<HeldTensor> more) {
    std::ranges::move(more, std::back_inserter(held));
  };
  if (config.checkpoint.save_optim) add(held_state(optimizer, plan));
  held = plan.to_write(std::move(held));
  if (adapters && is_bridges_form(*adapters)) {
    for (HeldTensor& each : held) each.shard.name = bridge_adapter_name(each.shard.name);
  }
  if (config.checkpoint.save_rng) add(held_random_state(model.build().device, plan));
  for (HeldTensor& each : held) {
    if (copied) each.data = copy_of(each.data);
  }
  snapshot.tensors = std::move(held);
  return snapshot;
}

void write_checkpoint(const Snapshot& snapshot, const std::optional<HuggingFaceFolder>& folder,
                      const Group& ranks) {
  MegatronShards shards{.tensors = snapshot.tensors};
  if (ranks.rank() == 0) {
    shards.objects[kProgress] = progress_state(snapshot.progress, snapshot.identity);
  }
  write_megatron(snapshot.output, shards, ranks,
                 {.add =
                      [&](const std::filesystem::path& iteration) {
                        if (folder) write_folder(*folder, iteration);
                        write_contents(iteration);
                      },
                  .opens = folder.has_value()});
}

}  // namespace trestle
