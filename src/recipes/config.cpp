#include "recipes/config.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/suggestion.h"
#include "data/overlong.h"
#include "generate/evaluate.h"
#include "kernels/device.h"
#include "peft/pissa.h"
#include "recipes/bridge_keys.h"
#include "recipes/schedule.h"

namespace trestle {

namespace {

void require(bool holds, std::string_view key, std::string_view value, std::string_view allowed) {
  if (!holds) user_error("{}={}: {}", key, value, allowed);
}

void check_blend(const TrainConfig& config) {
  const DatasetOptions& dataset = config.dataset;
  if (dataset.blend.empty()) return;
  if (!dataset.path_or_dataset.empty()) {
    user_error("dataset.blend={} and dataset.path_or_dataset={} both name data; leave one out",
               format_value(dataset.blend), dataset.path_or_dataset);
  }
  if (config.train.num_epochs) {
    user_error(
        "train.num_epochs={} has no meaning with dataset.blend, of which each set has passes of "
        "its own; give train.train_iters or train.train_samples",
        *config.train.num_epochs);
  }
}

// With the set that it is of behind it, as it is written.
std::string metric_of(const std::string& metric, const std::string& set) {
  return set.empty() ? metric : fmt::format("{}-{}", metric, set);
}

void check_best_metric(const ValidationOptions& options) {
  const std::string& typed = options.best_metric;
  if (typed.empty()) return;
  const auto [metric, set] = options.best_metric_and_set();
  std::vector<std::string> names = score_names();
  names.emplace_back(kValidLoss);
  if (std::ranges::find(names, metric) == names.end()) {
    const auto meant = nearest(metric, names);
    user_error("validation.best_metric={}: {} is no metric; {}", typed,
               metric.empty() ? "''" : metric,
               meant ? fmt::format("did you mean {}?", metric_of(*meant, set))
                     : fmt::format("there are {}", fmt::join(names, ", ")));
  }
  if (!options.sets.empty() &&
      std::ranges::find(options.sets, set, &ValidationSet::name) == options.sets.end()) {
    std::vector<std::string> sets;
    for (const ValidationSet& each : options.sets) sets.push_back(each.name);
    const std::string meant = nearest(set, sets).value_or(sets.front());
    user_error(
        "validation.best_metric={} is of no set; write {}, for one of validation.sets, which are "
        "{}",
        typed, metric_of(metric, meant), fmt::join(sets, ", "));
  }
  if (metric != kValidLoss && options.answers == 0) {
    user_error("validation.best_metric={} scores answers but validation.answers=0; set it", typed);
  }
}

void check_validation(const ValidationOptions& options) {
  if (!options.sets.empty() && !options.path_or_dataset.empty()) {
    user_error("validation.sets={} and validation.path_or_dataset={} both name data; leave one out",
               format_value(options.sets), options.path_or_dataset);
  }
  check_best_metric(options);
}

}  // namespace

std::string_view TrainConfig::current_name(std::string_view key) {
  const BridgeKeys* row = find_bridge_key(key);
  const bool renamed = row != nullptr && row->how == BridgeHow::kRenamed && row->values.empty();
  return renamed ? row->words : key;
}

void TrainConfig::validate_values() const {
  check_values(*this);
  require(is_device_name(train.device), "train.device", train.device, device_names(train.device));
  if (train.train_samples && train.num_epochs) {
    user_error("train.train_samples={} and train.num_epochs={} both say how long; leave one out",
               *train.train_samples, *train.num_epochs);
  }
  if (train.train_samples && *train.train_samples < train.global_batch_size) {
    user_error("train.train_samples={} do not fill a step of train.global_batch_size={}",
               *train.train_samples, train.global_batch_size);
  }
  if (train.global_batch_size % train.micro_batch_size != 0) {
    user_error("train.global_batch_size={} is not a multiple of train.micro_batch_size={}",
               train.global_batch_size, train.micro_batch_size);
  }
  check_schedule(*this, length_is_known(*this));
  check_validation(validation);
  check_blend(*this);
  if (checkpoint.most_recent_k == 0) {
    user_error("checkpoint.most_recent_k=0 would keep no checkpoint; use 1, or -1 for all of them");
  }
  if (profiling.use_pytorch_profiler) {
    const int64_t start = profiling.profile_step_start, end = profiling.profile_step_end;
    if (end <= std::max<int64_t>(start, 1)) {
      user_error(
          "profiling.profile_step_end={} and profiling.profile_step_start={}: no step lies between "
          "them; the end is the first step that is not traced",
          end, start);
    }
  }
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
  require(!dataset.path_or_dataset.empty() || !dataset.blend.empty(), "dataset.path_or_dataset", "",
          "name the data to train on: a file, a directory, or of Parquet a data set on the Hub; "
          "dataset.blend takes several");
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

template std::vector<FieldText> list_fields(const TrainConfig&);
template void check_values(const TrainConfig&, const std::string&);
template void set_field(TrainConfig&, const Assignment&, const TrainConfig&);

}  // namespace trestle
