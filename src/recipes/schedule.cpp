#include "recipes/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace trestle {

namespace {

// From 1 at share 0 to 0 at share 1.
double falling(std::string_view style, double share) {
  if (style == "linear") return 1 - share;
  if (style == "exponential") return 2 * std::pow(0.5, share) - 1;
  if (style == "minus_sqrt") return 1 - std::sqrt(share);
  return (1 + std::cos(std::numbers::pi * share)) / 2;  // cosine
}

void check_rates(const TrainConfig& config) {
  const double lr = config.optimizer.lr, warmup_init = config.scheduler.lr_warmup_init;
  if (config.optimizer.min_lr > lr) {
    user_error("optimizer.min_lr={} is above optimizer.lr={}", config.optimizer.min_lr, lr);
  }
  if (warmup_init > lr) {
    user_error("scheduler.lr_warmup_init={} is above optimizer.lr={}", warmup_init, lr);
  }
}

void check_weight_decay(const TrainConfig& config) {
  const double start = config.scheduler.start_weight_decay.value_or(config.optimizer.weight_decay);
  const double end = config.scheduler.end_weight_decay.value_or(config.optimizer.weight_decay);
  if (start > end) {
    user_error("scheduler.start_weight_decay={} is above scheduler.end_weight_decay={}", start,
               end);
  }
  if (config.scheduler.weight_decay_incr_style == "constant" && start != end) {
    user_error(
        "scheduler.weight_decay_incr_style=constant, but weight decay goes from {} to {}; use "
        "linear or cosine, or one value",
        start, end);
  }
}

}  // namespace

int64_t decay_steps(const TrainConfig& config) {
  return config.scheduler.lr_decay_iters.value_or(config.train.train_iters);
}

double warmup_steps(const TrainConfig& config) {
  const auto& fraction = config.scheduler.lr_warmup_fraction;
  return fraction ? *fraction * static_cast<double>(decay_steps(config))
                  : static_cast<double>(config.scheduler.lr_warmup_iters);
}

bool length_is_known(const TrainConfig& config) {
  const bool goes_on = !config.checkpoint.load.empty() && !config.checkpoint.finetune;
  return !config.train.num_epochs && !(config.train.train_samples && goes_on);
}

void check_schedule(const TrainConfig& config, bool length_known) {
  check_rates(config);
  check_weight_decay(config);
  const SchedulerOptions& scheduler = config.scheduler;
  const bool is_wsd = scheduler.lr_decay_style == "WSD";
  if (is_wsd && !scheduler.lr_wsd_decay_iters) {
    user_error("scheduler.lr_decay_style=WSD needs scheduler.lr_wsd_decay_iters");
  }
  if (!length_known && !scheduler.lr_decay_iters) return;
  const int64_t decay = decay_steps(config);
  const char* decay_key =
      scheduler.lr_decay_iters ? "scheduler.lr_decay_iters" : "train.train_iters";
  const int64_t warmup = scheduler.lr_warmup_iters;
  if (!scheduler.lr_warmup_fraction && warmup > 0 && warmup >= decay) {
    user_error("scheduler.lr_warmup_iters={} is not below {}={}; lower it, or make the run longer",
               warmup, decay_key, decay);
  }
  if (is_wsd && *scheduler.lr_wsd_decay_iters > decay) {
    user_error("scheduler.lr_wsd_decay_iters={} is above {}={}", *scheduler.lr_wsd_decay_iters,
               decay_key, decay);
  }
}

double learning_rate(const TrainConfig& config, int64_t step) {
  const SchedulerOptions& scheduler = config.scheduler;
  const auto n = static_cast<double>(step - 1);
  const double warmup = warmup_steps(config);
  const auto decay = static_cast<double>(decay_steps(config));
  const double peak = config.optimizer.lr, least = config.optimizer.min_lr;
  if (warmup > 0 && n <= warmup) {
    return scheduler.lr_warmup_init + (peak - scheduler.lr_warmup_init) * n / warmup;
  }
  if (scheduler.lr_decay_style == "constant") return peak;
  if (n > decay) return least;
  if (scheduler.lr_decay_style == "inverse-square-root") {
    // In Megatron a step counts as train.global_batch_size of them; the quotient is the same but
    // where it is held to at least one.
    const auto batch = static_cast<double>(config.train.global_batch_size);
    return std::max(least,
                    peak * std::sqrt(std::max(warmup * batch, 1.0) / std::max(n * batch, 1.0)));
  }
  if (scheduler.lr_decay_style == "WSD") {
    const auto last = static_cast<double>(scheduler.lr_wsd_decay_iters.value_or(1));
    const double begun = n - (decay - last);
    const double weight = begun <= 0 ? 1 : falling(scheduler.lr_wsd_decay_style, begun / last);
    return least + (peak - least) * weight;
  }
  return least +
         (peak - least) * falling(scheduler.lr_decay_style, (n - warmup) / (decay - warmup));
}

double weight_decay(const TrainConfig& config, int64_t step) {
  const SchedulerOptions& scheduler = config.scheduler;
  const double start = scheduler.start_weight_decay.value_or(config.optimizer.weight_decay);
  const double end = scheduler.end_weight_decay.value_or(config.optimizer.weight_decay);
  const double share =
      static_cast<double>(step - 1) / static_cast<double>(config.train.train_iters);
  if (share > 1 || scheduler.weight_decay_incr_style == "constant") return end;
  const double weight = scheduler.weight_decay_incr_style == "linear"
                            ? share
                            : (1 + std::cos(std::numbers::pi * (1 - share))) / 2;
  return start + (end - start) * weight;
}

}  // namespace trestle
