// One step of the trainer: samples, gradients, what is read of them, the update.
#include <ATen/ATen.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "kernels/device.h"
#include "metrics/flops.h"
#include "model/host_input.h"
#include "model/ministral3.h"
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
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

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

Trainer::Drawn Trainer::next_samples() {
  Drawn drawn;
  for (int64_t i = 0; i < config_.train.global_batch_size; ++i) {
    SampleStream::Taken taken = stream_->next();
    require_ids_of_model(taken);
    drawn.rows.push_back(taken.row);
    drawn.samples.push_back(std::move(taken.sample));
  }
  progress_.consumed_samples = stream_->position();
  return drawn;
}

std::string Trainer::fault(const StepMetrics& metrics) const {
  if (!std::isfinite(metrics.grad_norm)) {
    return fmt::format("the gradient norm is {}; first bad: the gradient of {}", metrics.grad_norm,
                       first_bad_gradient(optimizer_->parameters()));
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
    user_error(
        "step {}: {}; look at these rows, lower optimizer.lr={:g}, or go on without such "
        "steps (--on-nan skip)",
        metrics.step, why, config_.optimizer.lr);
  }
  optimizer_->zero_grad();
  metrics.skipped = why;
  ++progress_.skipped;
  if (++progress_.skipped_on_end > config_.train.max_steps_on_nan) {
    user_error("step {}: {}; more than train.max_steps_on_nan={} steps on end were skipped",
               metrics.step, why, config_.train.max_steps_on_nan);
  }
}

Trainer::MicroBatch Trainer::accumulate(Drawn drawn, StepMetrics& metrics) {
  ++metrics.forwards;
  MicroBatch micro{std::move(drawn.rows), collate(drawn.samples), {}};
  ModelInput& input = micro.batch.input;
  const auto pictures = features_ ? features_->fill(input) : input.images_CHW;
  const auto [sum, targets] = model_->loss_sum(input, micro.batch.labels_T);
  metrics.flops += flops_->of(input, pictures, targets);
  const at::Tensor loss = sum / static_cast<double>(metrics.target_tokens);
  // It asks for no gradient where only the vision tower trains and no sample has a picture.
  if (targets > 0 && loss.requires_grad()) loss.backward();
  micro.loss = loss.detach();
  return micro;
}

std::string Trainer::read(const std::vector<MicroBatch>& micro_batches,
                          StepMetrics& metrics) const {
  std::vector<at::Tensor> scalars = {optimizer_->grad_norm()};
  for (const MicroBatch& micro : micro_batches) {
    scalars.push_back(micro.loss.to(scalars.front().device()));
  }
  const std::vector<double> values = read_scalars(scalars);
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    const MicroBatch& micro = micro_batches[i];
    metrics.loss += values[i + 1];
    if (!std::isfinite(metrics.loss)) {
      return fmt::format("the loss is {} in rows {}; first bad: {}", metrics.loss,
                         row_names(*dataset_, micro.rows), first_bad_tensor(*model_, micro.batch));
    }
  }
  metrics.grad_norm = values.front();
  return {};
}

StepMetrics Trainer::step() {
  const Clock::time_point start = Clock::now();
  Drawn drawn = next_samples();
  StepMetrics metrics;
  metrics.step = ++progress_.step;
  const int64_t scheduled = metrics.step - progress_.schedule_start;
  metrics.lr = learning_rate(config_, scheduled);
  // Counted first, so that each micro-batch weighs by its targets and not by its turn.
  for (const Sample& sample : drawn.samples) {
    metrics.target_tokens += sample.targets();
    metrics.tokens += static_cast<int64_t>(sample.ids.size());
    metrics.images += static_cast<int64_t>(sample.images_CHW.size());
  }
  if (metrics.target_tokens == 0) {
    user_error("step {}: none of its {} samples has a target to learn", metrics.step,
               drawn.samples.size());
  }
  optimizer_->zero_grad();
  std::vector<MicroBatch> done;
  for (const std::vector<size_t>& group : micro_batches(config_, drawn.samples)) {
    Drawn together{take(drawn.samples, group), {}};
    for (const size_t i : group) together.rows.push_back(drawn.rows[i]);
    done.push_back(accumulate(std::move(together), metrics));
  }
  std::string why = read(done, metrics);
  if (why.empty()) {
    why = fault(metrics);
    if (!why.empty()) why += fmt::format("; rows {}", row_names(*dataset_, drawn.rows));
  }
  if (why.empty()) {
    optimizer_->clip(metrics.grad_norm);
    optimizer_->step(metrics.lr, weight_decay(config_, scheduled));
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
  metrics.peak_memory_bytes = peak_memory_bytes(device_);
  return metrics;
}

}  // namespace trestle
