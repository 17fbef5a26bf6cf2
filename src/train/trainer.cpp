#include "train/trainer.h"

#include <ATen/ATen.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/hub.h"
#include "train/metrics.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

TrainConfig validated(TrainConfig config) {
  config.validate();
  return config;
}

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config)
    : config_(validated(config)),
      base_(resolve_model(config_.checkpoint.pretrained_checkpoint,
                          "checkpoint.pretrained_checkpoint")),
      processor_(base_.assets()),
      dataset_(make_dataset(config_.dataset.maker_name, config_.dataset.path_or_dataset,
                            config_.dataset.split)),
      order_(dataset_->size(), static_cast<uint64_t>(config_.rng.seed), config_.dataset.shuffle) {
  at::manual_seed(static_cast<uint64_t>(config_.rng.seed));
  model_ = load_model(base_, {config_.dtype(), at::kCPU});
  model_->train();
  if (!config_.trains_adapters()) {
    freeze();
  } else if (config_.peft.adapter_path.empty()) {
    attach_lora(*model_, config_.peft, static_cast<uint64_t>(config_.rng.seed));
  } else {
    start_from_adapter();
  }
  AdamW::NamedTensors trained;
  for (const auto& entry : model_->named_parameters()) {
    if (entry.value().requires_grad()) trained.emplace_back(entry.key(), entry.value());
  }
  optimizer_ = std::make_unique<AdamW>(
      std::move(trained), AdamWOptions{.beta1 = config_.optimizer.adam_beta1,
                                       .beta2 = config_.optimizer.adam_beta2,
                                       .eps = config_.optimizer.adam_eps,
                                       .weight_decay = config_.optimizer.weight_decay});
  if (!config_.checkpoint.load.empty()) {
    progress_ = load_checkpoint(config_.checkpoint.load, *model_, *optimizer_);
  }
}

void Trainer::freeze() {
  for (const auto& entry : model_->named_parameters()) {
    const std::string& name = entry.key();
    const bool frozen =
        (config_.model.freeze_language_model && name.starts_with("language_model.")) ||
        (config_.model.freeze_vision_model && name.starts_with("vision_tower.")) ||
        (config_.model.freeze_vision_projection && name.starts_with("multi_modal_projector."));
    entry.value().requires_grad_(!frozen);
  }
}

void Trainer::start_from_adapter() {
  load_adapter(*model_, resolve_model(config_.peft.adapter_path, "peft.adapter_path"));
  if (const std::string scheme = lora_config_of(*model_).scheme; scheme != config_.peft.scheme) {
    user_error("peft.adapter_path={} is a {} adapter but peft.scheme={}; set the one to the other",
               config_.peft.adapter_path, scheme, config_.peft.scheme);
  }
}

std::vector<Sample> Trainer::next_samples() {
  std::vector<Sample> samples;
  for (int64_t i = 0; i < config_.train.global_batch_size; ++i) {
    const int64_t row = order_.row(progress_.consumed_samples + i);
    samples.push_back(processor_.process(dataset_->row(row), Ending::kSample));
    const auto length = static_cast<int64_t>(samples.back().ids.size());
    if (length > config_.model.seq_length) {
      user_error("row {} of {} has {} tokens but model.seq_length={}; raise it or drop the row",
                 row, config_.dataset.path_or_dataset, length, config_.model.seq_length);
    }
  }
  progress_.consumed_samples += config_.train.global_batch_size;
  return samples;
}

StepMetrics Trainer::step() {
  const Clock::time_point start = Clock::now();
  const std::vector<Sample> samples = next_samples();
  StepMetrics metrics;
  metrics.step = ++progress_.step;
  metrics.lr = learning_rate(config_, metrics.step);
  // Counted first, so that each micro-batch weighs by its targets and not by its turn.
  for (const Sample& sample : samples) {
    metrics.target_tokens += sample.targets();
    metrics.tokens += static_cast<int64_t>(sample.ids.size());
    metrics.images += static_cast<int64_t>(sample.images_CHW.size());
  }
  if (metrics.target_tokens == 0) {
    user_error("step {}: none of its {} samples has a target to learn", metrics.step,
               samples.size());
  }
  optimizer_->zero_grad();
  const auto micro = static_cast<std::ptrdiff_t>(config_.train.micro_batch_size);
  for (auto first = samples.begin(); first != samples.end(); first += micro) {
    const Batch batch = collate({first, first + micro});
    const auto [sum, targets] = model_->loss_sum(batch.input, batch.labels_T);
    if (targets == 0) continue;
    const at::Tensor loss = sum / static_cast<double>(metrics.target_tokens);
    loss.backward();
    metrics.loss += loss.item<double>();
  }
  if (!std::isfinite(metrics.loss)) {
    user_error("step {}: the loss is {}; lower optimizer.lr={} or look at the data", metrics.step,
               metrics.loss, config_.optimizer.lr);
  }
  metrics.grad_norm = clip_grad_norm(optimizer_->parameters(), config_.optimizer.clip_grad);
  optimizer_->step(metrics.lr);
  metrics.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  metrics.peak_memory_bytes = peak_memory_bytes();
  return metrics;
}

void Trainer::save() {
  save_checkpoint(config_.checkpoint.save, *model_, *optimizer_, progress_, config_, base_);
}

void Trainer::run(const OnStep& on_step) {
  const fs::path directory = config_.checkpoint.save;
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    machine_error("cannot create checkpoint.save={}: {}", directory.string(), error.message());
  write_text(directory / "resolved_config.yaml", to_yaml(config_));
  MetricsLog log(directory / "metrics.jsonl", progress_.step, config_.train.train_iters);
  while (progress_.step < config_.train.train_iters) {
    const StepMetrics metrics = step();
    log.write(metrics);
    if (metrics.step % config_.logger.log_interval == 0) log.print_progress(metrics);
    if (on_step) on_step(metrics);
    const bool exit =
        config_.train.exit_interval && metrics.step % *config_.train.exit_interval == 0;
    if (metrics.step % config_.checkpoint.save_interval == 0 ||
        metrics.step == config_.train.train_iters || exit) {
      save();
    }
    if (exit) break;
  }
}

}  // namespace trestle
