#include "recipes/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "data/overlong.h"
#include "generate/evaluate.h"
#include "peft/pissa.h"

namespace trestle {

namespace {

void require(bool holds, std::string_view key, std::string_view value, std::string_view allowed) {
  if (!holds) user_error("{}={}: {}", key, value, allowed);
}

// A layer's shards make the same sums, so that one process may make them all; the other kinds of
// parallelism would be silently another run.
void check_parallelism(const ModelOptions& model) {
  const auto require_one = [](std::string_view key, int64_t value) {
    require(value == 1, key, std::to_string(value), "is not here yet; use 1");
  };
  require_one("model.pipeline_model_parallel_size", model.pipeline_model_parallel_size);
  require_one("model.context_parallel_size", model.context_parallel_size);
  require(!model.sequence_parallel, "model.sequence_parallel", "true", "is not here yet");
}

// As megatron-core's OptimizerParamScheduler asserts.
void check_schedule(const TrainConfig& config) {
  const double lr = config.optimizer.lr, warmup_init = config.scheduler.lr_warmup_init;
  if (config.optimizer.min_lr > lr) {
    user_error("optimizer.min_lr={} is above optimizer.lr={}", config.optimizer.min_lr, lr);
  }
  if (warmup_init > lr) {
    user_error("scheduler.lr_warmup_init={} is above optimizer.lr={}", warmup_init, lr);
  }
  const int64_t warmup = config.scheduler.lr_warmup_iters;
  const int64_t decay = config.scheduler.lr_decay_iters.value_or(config.train.train_iters);
  if (warmup > 0 && warmup >= decay) {
    user_error(
        "scheduler.lr_warmup_iters={} is not below {}={}; lower it, or make the run longer", warmup,
        config.scheduler.lr_decay_iters ? "scheduler.lr_decay_iters" : "train.train_iters", decay);
  }
}

void check_validation(const ValidationOptions& options) {
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

void TrainConfig::validate_values() const {
  check_values(*this);
  if (train.global_batch_size % train.micro_batch_size != 0) {
    user_error("train.global_batch_size={} is not a multiple of train.micro_batch_size={}",
               train.global_batch_size, train.micro_batch_size);
  }
  check_parallelism(model);
  check_schedule(*this);
  check_validation(validation);
  peft.validate();
  if (model.freeze_language_model && model.freeze_vision_model && model.freeze_vision_projection &&
      !trains_adapters()) {
    user_error("model.freeze_* freeze every part; nothing would be trained");
  }
}

void TrainConfig::validate() const {
  validate_values();
  require(!checkpoint.pretrained_checkpoint.empty(), "checkpoint.pretrained_checkpoint", "",
          "name the model to start from (--pretrained-checkpoint DIR)");
  require(!checkpoint.save.empty(), "checkpoint.save", "",
          "name a run directory (or set SAVE_DIR)");
  require(!dataset.path_or_dataset.empty(), "dataset.path_or_dataset", "",
          "name the data to train on: a file, a directory, or of Parquet a data set on the Hub");
}

bool TrainConfig::draws() const {
  if (dataset.shuffle) return true;
  if (!trains_adapters()) return false;
  if (peft.dropout > 0) return true;
  if (!peft.adapter_path.empty()) return false;
  // PiSSA's exact decomposition draws nothing, its iterations begin with random vectors.
  if (const auto iterations = pissa_iterations(peft.lora_A_init_method)) return *iterations > 0;
  return peft.lora_A_init_method != "zero" || peft.lora_B_init_method != "zero";
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
