#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "data/overlong.h"
#include "generate/evaluate.h"

namespace trestle {

namespace {

constexpr int64_t kMostWorkers = 256;

void require(bool holds, std::string_view key, std::string_view value, std::string_view allowed) {
  if (!holds) user_error("{}={}: {}", key, value, allowed);
}

void require_positive(std::string_view key, int64_t value) {
  require(value > 0, key, std::to_string(value), "must be at least 1");
}

// A layer's shards make the same sums, so that one process may make them all; the other kinds of
// parallelism would be silently another run.
void check_parallelism(const ModelOptions& model) {
  require_positive("model.tensor_model_parallel_size", model.tensor_model_parallel_size);
  const auto require_one = [](std::string_view key, int64_t value) {
    require(value == 1, key, std::to_string(value), "is not here yet; use 1");
  };
  require_one("model.pipeline_model_parallel_size", model.pipeline_model_parallel_size);
  require_one("model.context_parallel_size", model.context_parallel_size);
  require(!model.sequence_parallel, "model.sequence_parallel", "true", "is not here yet");
}

void check_validation(const ValidationOptions& options) {
  require(options.eval_interval >= 0, "validation.eval_interval",
          std::to_string(options.eval_interval), "must not be negative");
  require_positive("validation.eval_iters", options.eval_iters);
  require(options.answers >= 0, "validation.answers", std::to_string(options.answers),
          "must not be negative");
  require_positive("validation.max_new_tokens", options.max_new_tokens);
  const std::string& metric = options.best_metric;
  if (metric.empty() || metric == kValidLoss) return;
  std::vector<std::string> names = score_names();
  if (std::ranges::find(names, metric) == names.end()) {
    names.emplace_back(kValidLoss);
    user_error("validation.best_metric={} is not known; did you mean {}?", metric,
               nearest(metric, names));
  }
  if (options.answers == 0) {
    user_error("validation.best_metric={} scores answers but validation.answers=0; set it", metric);
  }
}

}  // namespace

std::string_view TrainConfig::current_name(std::string_view key) {
  if (key == "train.eval_interval") return "validation.eval_interval";
  if (key == "train.eval_iters") return "validation.eval_iters";
  return key;
}

void TrainConfig::validate() const {
  require_positive("train.train_iters", train.train_iters);
  require_positive("train.global_batch_size", train.global_batch_size);
  require_positive("train.micro_batch_size", train.micro_batch_size);
  require_positive("model.seq_length", model.seq_length);
  require_positive("checkpoint.save_interval", checkpoint.save_interval);
  require_positive("logger.log_interval", logger.log_interval);
  if (train.exit_interval) require_positive("train.exit_interval", *train.exit_interval);
  require(train.on_nan == "stop" || train.on_nan == "skip", "train.on_nan", train.on_nan,
          "use stop or skip");
  require_positive("train.max_steps_on_nan", train.max_steps_on_nan);
  require(train.loss_spike_factor == 0 || train.loss_spike_factor > 1, "train.loss_spike_factor",
          format_value(train.loss_spike_factor), "must be above 1, or 0 for none");
  if (train.global_batch_size % train.micro_batch_size != 0) {
    user_error("train.global_batch_size={} is not a multiple of train.micro_batch_size={}",
               train.global_batch_size, train.micro_batch_size);
  }
  require(model.params_dtype == "bf16" || model.params_dtype == "float32", "model.params_dtype",
          model.params_dtype, "use bf16 or float32");
  check_parallelism(model);
  const std::string& granularity = model.recompute_granularity;
  require(granularity == "none" || granularity == "selective" || granularity == "full",
          "model.recompute_granularity", granularity, "use none, selective or full");
  require(model.recompute_method == "uniform" || model.recompute_method == "block",
          "model.recompute_method", model.recompute_method, "use uniform or block");
  require_positive("model.recompute_num_layers", model.recompute_num_layers);
  const std::string& style = scheduler.lr_decay_style;
  require(style == "cosine" || style == "linear" || style == "constant", "scheduler.lr_decay_style",
          style, "use cosine, linear or constant");
  require(scheduler.lr_warmup_iters >= 0, "scheduler.lr_warmup_iters",
          std::to_string(scheduler.lr_warmup_iters), "must not be negative");
  require(optimizer.lr > 0 && std::isfinite(optimizer.lr), "optimizer.lr",
          format_value(optimizer.lr), "must be above 0");
  require(optimizer.min_lr >= 0 && optimizer.min_lr <= optimizer.lr, "optimizer.min_lr",
          format_value(optimizer.min_lr), "must lie between 0 and optimizer.lr");
  require(overlong_of_name(dataset.overlong).has_value(), "dataset.overlong", dataset.overlong,
          "use one of " + overlong_names());
  require(dataset.image_max_edge >= 0, "dataset.image_max_edge",
          std::to_string(dataset.image_max_edge), "must not be negative");
  require(dataset.image_max_tokens == 0 || dataset.image_max_tokens >= 2,
          "dataset.image_max_tokens", std::to_string(dataset.image_max_tokens),
          "must be 2 at least (one [IMG] and its end), or 0 for no limit");
  require(dataset.feature_cache_mb >= 0, "dataset.feature_cache_mb",
          std::to_string(dataset.feature_cache_mb), "must not be negative");
  require(dataset.num_workers >= 0 && dataset.num_workers <= kMostWorkers, "dataset.num_workers",
          std::to_string(dataset.num_workers), fmt::format("use 0 to {}", kMostWorkers));
  check_validation(validation);
  peft.validate();
  if (model.freeze_language_model && model.freeze_vision_model && model.freeze_vision_projection &&
      !trains_adapters()) {
    user_error("model.freeze_* freeze every part; nothing would be trained");
  }
  require(!checkpoint.pretrained_checkpoint.empty(), "checkpoint.pretrained_checkpoint", "",
          "name the model to start from (--pretrained-checkpoint DIR)");
  require(!checkpoint.save.empty(), "checkpoint.save", "",
          "name a run directory (or set SAVE_DIR)");
  require(!dataset.path_or_dataset.empty(), "dataset.path_or_dataset", "",
          "name the data to train on");
}

Recompute TrainConfig::recompute() const {
  using Granularity = Recompute::Granularity;
  return {.granularity = model.recompute_granularity == "full"        ? Granularity::kFull
                         : model.recompute_granularity == "selective" ? Granularity::kSelective
                                                                      : Granularity::kNone,
          .method = model.recompute_method == "block" ? Recompute::Method::kBlock
                                                      : Recompute::Method::kUniform,
          .num_layers = model.recompute_num_layers};
}

double learning_rate(const TrainConfig& config, int64_t step) {
  const double n = static_cast<double>(step - 1);
  const auto warmup = static_cast<double>(config.scheduler.lr_warmup_iters);
  const auto decay =
      static_cast<double>(config.scheduler.lr_decay_iters.value_or(config.train.train_iters));
  const double peak = config.optimizer.lr;
  const double least = config.optimizer.min_lr;
  if (warmup > 0 && n <= warmup) {
    return config.scheduler.lr_warmup_init + (peak - config.scheduler.lr_warmup_init) * n / warmup;
  }
  if (config.scheduler.lr_decay_style == "constant") return peak;
  if (n > decay) return least;
  const double share = (n - warmup) / (decay - warmup);
  const double weight = config.scheduler.lr_decay_style == "linear"
                            ? 1 - share
                            : (1 + std::cos(std::numbers::pi * share)) / 2;
  return least + (peak - least) * weight;
}

}  // namespace trestle
