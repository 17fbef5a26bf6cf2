// One step of the trainer: samples, gradients, what is read of them, the update.
#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "kernels/device.h"
#include "metrics/flops.h"
#include "metrics/memory.h"
#include "model/host_input.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "parallel/world.h"
#include "recipes/schedule.h"
#include "train/diagnose.h"
#include "train/micro_batches.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace trestle {

namespace {

using Clock = std::chrono::steady_clock;

int64_t peak_memory_bytes(at::Device device) {
  if (const auto card = card_memory(device)) return card->peak;
  return peak_resident_bytes();
}

// For messages: the sign of a NaN says nothing and differs from device to device.
double without_sign_of_nan(double value) { return std::isnan(value) ? std::abs(value) : value; }

}  // namespace

void Trainer::require_ids_of_model(const SampleStream::Taken& taken) const {
  const int64_t vocabulary = model_->config().text.vocab_size;
  for (const int64_t id : taken.sample.ids) {
    if (id < vocabulary) continue;
    user_error(
        "row {} of the data holds token id {}, but the model has ids 0 to {}; "
        "checkpoint.pretrained_checkpoint={} has another model's tokenizer",
        taken.row, id, vocabulary - 1, config_.checkpoint.pretrained_checkpoint);
  }
}

void Trainer::seed_dropout() const {
  if (ranks_.is_one() || config_.peft.dropout == 0 || !config_.trains_adapters()) return;
  // Tensor ranks draw alike: masks of what they all have whole must be the same.
  const auto& [topology, place] = std::tie(ranks_.grid.topology, ranks_.grid.place);
  const int64_t number =
      (place.data * topology.context + place.context) * topology.pipeline + place.pipeline;
  at::manual_seed(static_cast<uint64_t>(config_.rng.seed) + (static_cast<uint64_t>(number) << 40) +
                  static_cast<uint64_t>(progress_.step));
}

template <class... Args>
void Trainer::fail_together(fmt::format_string<Args...> format, Args&&... args) const {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  if (ranks_.is_one()) throw UserError(text);
  throw AgreedError(text);
}

// Of all ranks, which share the model out.
std::string Trainer::first_bad_gradient() const {
  return first_text(ranks_.grid.world, trestle::first_bad_gradient(optimizer_->parameters()));
}

std::string Trainer::fault(const StepMetrics& metrics) const {
  if (!std::isfinite(metrics.grad_norm)) {
    return fmt::format("the gradient norm is {}; first bad: the gradient of {}",
                       without_sign_of_nan(metrics.grad_norm), first_bad_gradient());
  }
  const std::vector<double>& recent = progress_.recent_losses;
  if (config_.train.loss_spike_factor > 0 && std::ssize(recent) == kSpikeWindow) {
    const double mean = std::accumulate(recent.begin(), recent.end(), 0.0) / kSpikeWindow;
    if (metrics.loss > config_.train.loss_spike_factor * mean) {
      return fmt::format(
          "the loss {:.4f} is over train.loss_spike_factor={:g} times {:.4f}, the "
          "mean of the {} steps before",
          metrics.loss, config_.train.loss_spike_factor, mean, kSpikeWindow);
    }
  }
  return {};
}

void Trainer::refuse(StepMetrics& metrics, const std::string& why) {
  if (config_.train.on_nan == "stop") {
    fail_together(
        "step {}: {}; look at these rows, lower optimizer.lr={:g}, or go on without such "
        "steps (--on-nan skip)",
        metrics.step, why, config_.optimizer.lr);
  }
  optimizer_->zero_grad();
  metrics.skipped = why;
  ++progress_.skipped;
  if (++progress_.skipped_on_end > config_.train.max_steps_on_nan) {
    fail_together("step {}: {}; more than train.max_steps_on_nan={} steps on end were skipped",
                  metrics.step, why, config_.train.max_steps_on_nan);
  }
}

Trainer::MicroBatch Trainer::collated(GlobalBatch& batch, const std::vector<size_t>& group,
                                      StepMetrics& metrics) {
  ++metrics.forwards;
  MicroBatch micro{{}, collate(take(batch.samples, group)), {}};
  for (const size_t i : group) micro.rows.push_back(batch.rows[i]);
  ModelInput& input = micro.batch.input;
  const auto pictures = features_ ? features_->fill(input) : input.images_CHW;
  const int64_t targets = Targets::of(micro.batch.labels_T).count();
  metrics.flops += flops_->of(input, pictures, targets);
  return micro;
}

std::vector<Trainer::MicroBatch> Trainer::make_gradients(GlobalBatch& batch, StepMetrics& metrics) {
  const std::vector<std::vector<size_t>> groups = micro_batches(config_, batch.samples);
  std::vector<MicroBatch> done(groups.size());
  const auto next = [&](int64_t i) {
    MicroBatch& micro = done[static_cast<size_t>(i)];
    micro = collated(batch, groups[static_cast<size_t>(i)], metrics);
    return PipelineBatch{&micro.batch.input, &micro.batch.labels_T};
  };
  // A tied embedding's gradient is whole behind all passes alone.
  const bool overlaps = gradients_ && !pipeline_->has_tied_embedding();
  const at::Tensor losses =
      pipeline_->train(std::ssize(groups), next, static_cast<double>(metrics.target_tokens), [&] {
        if (overlaps) gradients_->begin();
      });
  pipeline_->sum_tied_embeddings();
  for (size_t i = 0; i < done.size(); ++i) done[i].loss = losses[static_cast<int64_t>(i)];
  return done;
}

std::string Trainer::read(const std::vector<MicroBatch>& micro_batches,
                          StepMetrics& metrics) const {
  std::vector<at::Tensor> scalars = {norm()};
  for (const MicroBatch& micro : micro_batches) {
    scalars.push_back(micro.loss.to(scalars.front().device()));
  }
  const std::vector<double> values = read_scalars(scalars);
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    const MicroBatch& micro = micro_batches[i];
    metrics.loss += values[i + 1];
    if (!std::isfinite(metrics.loss)) {
      return fmt::format("the loss is {} in rows {}; first bad: {}",
                         without_sign_of_nan(metrics.loss), row_names(*dataset_, micro.rows),
                         first_bad_tensor(*model_, ranks_.grid, micro.batch));
    }
  }
  metrics.grad_norm = values.front();
  return {};
}

at::Tensor Trainer::norm() const {
  return gradients_ ? gradients_->norm() : optimizer_->grad_norm();
}

void Trainer::add_ranks(StepMetrics& metrics) const {
  if (ranks_.is_one()) return;
  at::Tensor sums =
      at::tensor({metrics.loss, metrics.flops, static_cast<double>(metrics.forwards)}, at::kDouble);
  ranks_.grid.data.all_reduce(sums);
  const auto* sum = sums.const_data_ptr<double>();
  metrics.loss = sum[0];
  at::Tensor flops = at::full({1}, sum[1], at::kDouble);
  ranks_.grid.pipeline.all_reduce(flops);  // each stage counts its own
  metrics.flops = flops.item<double>();
  metrics.forwards = static_cast<int64_t>(sum[2]);
}

StepMetrics Trainer::step() {
  const Clock::time_point start = Clock::now();
  GlobalBatch batch = batches_->next(config_.train.global_batch_size);
  progress_.consumed_samples = batches_->position();
  StepMetrics metrics;
  metrics.step = ++progress_.step;
  metrics.ranks = ranks_.size;
  if (!ranks_.is_one()) {
    world_.journal().at_step(metrics.step, row_names(*dataset_, batch.rows));
  }
  const int64_t scheduled = metrics.step - progress_.schedule_start;
  metrics.lr = learning_rate(config_, scheduled);
  // Counted first, so that each micro-batch weighs by its targets and not by its turn.
  metrics.target_tokens = batch.targets;
  metrics.tokens = batch.tokens;
  metrics.images = batch.images;
  if (metrics.target_tokens == 0) {
    fail_together("step {}: none of its {} samples has a target to learn", metrics.step,
                  batch.all_rows.size());
  }
  optimizer_->zero_grad();
  seed_dropout();
  const std::vector<MicroBatch> done = make_gradients(batch, metrics);
  if (gradients_) gradients_->sum();
  std::string why = first_told(ranks_.grid.world, read(done, metrics));
  add_ranks(metrics);
  if (!why.empty()) metrics.grad_norm = 0;  // on the others too
  if (why.empty()) {
    why = first_told(ranks_.grid.world, fault(metrics));
    if (!why.empty()) why += fmt::format("; rows {}", row_names(*dataset_, batch.all_rows));
  }
  if (why.empty()) {
    optimizer_->clip(metrics.grad_norm);
    optimizer_->step(metrics.lr, weight_decay(config_, scheduled));
    if (gradients_) gradients_->share_updates();
    progress_.skipped_on_end = 0;
    progress_.recent_losses.push_back(metrics.loss);
    if (std::ssize(progress_.recent_losses) > kSpikeWindow) {
      progress_.recent_losses.erase(progress_.recent_losses.begin());
    }
  } else {
    refuse(metrics, why);
  }
  if (params_norm_) metrics.params_norm = params_norm_->now();
  metrics.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  metrics.peak_memory_bytes = ranks_.grid.world.max(peak_memory_bytes(device_));
  return metrics;
}

}  // namespace trestle
