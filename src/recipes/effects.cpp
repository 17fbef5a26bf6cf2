#include "recipes/effects.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "base/error.h"
#include "data/datasets.h"
#include "peft/pissa.h"
#include "peft/targets.h"
#include "recipes/schedule.h"

namespace trestle {

namespace {

// What of a run cannot have an effect: `key`, or all keys that begin so where it ends in a dot or
// underscore, and why.
class Dead {
 public:
  explicit Dead(const TrainConfig& config) {
    for (const FieldText& each : list_fields(config)) values_[each.path] = each.value;
  }

  void add(std::string_view key, std::string why, std::string_view but = {}) {
    for (const auto& [path, value] : values_) {
      const bool is_start = key.ends_with('.') || key.ends_with('_');
      const bool named = is_start ? path.starts_with(key) : path == key;
      if (named && path != but) why_.emplace(path, why);
    }
  }
  void allow(const std::string& key) { why_.erase(key); }
  // With `assignment` the key would have an effect.
  void offer(const std::string& key, const std::string& assignment) { offers_[key] = assignment; }
  void refuse(const std::set<std::string>& asked) const {
    for (const auto& [path, why] : why_) {
      if (!asked.contains(path)) continue;
      const auto offer = offers_.find(path);
      user_error("{}={} has no effect: {}; leave it out{}", path, values_.at(path), why,
                 offer == offers_.end() ? "" : ", or set " + offer->second);
    }
  }

 private:
  std::map<std::string, std::string> values_, why_, offers_;
};

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

// Whether the vision tower and the projector stay as they are, so that features can be kept.
bool vision_is_frozen(const TrainConfig& config) {
  if (!config.trains_adapters()) {
    return config.model.freeze_vision_model && config.model.freeze_vision_projection;
  }
  // What an adapter adapts is known when it is opened.
  if (!config.peft.adapter_path.empty()) return true;
  for (const auto& [place, parts] : chosen_parts(config.peft.target_modules)) {
    if (!place.starts_with("lm.")) return false;
  }
  return true;
}

void add_of_schedule(const TrainConfig& config, Dead& dead) {
  const SchedulerOptions& scheduler = config.scheduler;
  if (scheduler.lr_warmup_fraction) {
    // A file of Megatron Bridge's has a 0 beside it.
    if (scheduler.lr_warmup_iters != 0) {
      dead.add("scheduler.lr_warmup_iters", "scheduler.lr_warmup_fraction says it");
    }
  }
  if (scheduler.lr_warmup_fraction.value_or(static_cast<double>(scheduler.lr_warmup_iters)) == 0) {
    dead.add("scheduler.lr_warmup_init",
             fmt::format("scheduler.{}=0, so there is no warm-up",
                         scheduler.lr_warmup_fraction ? "lr_warmup_fraction" : "lr_warmup_iters"));
  }
  if (scheduler.lr_decay_style != "WSD") {
    const auto why = fmt::format("scheduler.lr_decay_style={}", scheduler.lr_decay_style);
    dead.add("scheduler.lr_wsd_decay_style", why);
    dead.add("scheduler.lr_wsd_decay_iters", why);
  }
  const auto& start = scheduler.start_weight_decay;
  const auto& end = scheduler.end_weight_decay;
  const double usual = config.optimizer.weight_decay;
  if (start && end && *start != usual && *end != usual) {
    dead.add("optimizer.weight_decay", "scheduler.start_weight_decay and end_weight_decay say it");
  }
  if (start.value_or(usual) == end.value_or(usual) &&
      scheduler.weight_decay_incr_style != "constant") {
    dead.add("scheduler.weight_decay_incr_style",
             "weight decay starts and ends at one value; set scheduler.start_weight_decay");
  }
  const TrainOptions& train = config.train;
  if (train.train_samples) dead.add("train.train_iters", "train.train_samples says it");
  if (train.num_epochs) dead.add("train.train_iters", "train.num_epochs says it");
}

void add_of_model_and_steps(const TrainConfig& config, Dead& dead) {
  if (config.model.recompute_granularity != "full") {
    const auto why = fmt::format("model.recompute_granularity={}, and only full recomputes layers",
                                 config.model.recompute_granularity);
    dead.add("model.recompute_method", why);
    dead.add("model.recompute_num_layers", why);
  }
  if (config.train.on_nan == "stop") {
    dead.add("train.max_steps_on_nan", "train.on_nan=stop ends the run at the first such step");
  }
  if (config.scheduler.lr_decay_style == "constant") {
    dead.add("optimizer.min_lr", "scheduler.lr_decay_style=constant never falls to it");
    if (config.scheduler.lr_warmup_fraction.value_or(0) == 0) {
      dead.add("scheduler.lr_decay_iters", "scheduler.lr_decay_style=constant does not decay");
    }
  }
  add_of_schedule(config, dead);
  // An adapter says its dropout when it is opened.
  if (!config.draws() && config.peft.adapter_path.empty()) dead.add("rng.seed", kNothingDrawn);
}

void add_of_validation(const TrainConfig& config, Dead& dead) {
  const ValidationOptions& validation = config.validation;
  for (const auto& [key, value] : {std::pair("validation.eval_interval", validation.eval_interval),
                                   std::pair("validation.eval_iters", validation.eval_iters)}) {
    if (value == 0) dead.add("validation.", fmt::format("{}=0 turns validation off", key), key);
  }
  // Both of them may say so.
  if (validation.eval_interval == 0 && validation.eval_iters == 0) {
    dead.allow("validation.eval_interval");
    dead.allow("validation.eval_iters");
  }
  const int64_t start = validation.start_eval_at_iter.value_or(0);
  if (validation.is_on() && start > 0 && start <= validation.eval_interval) {
    dead.add("validation.start_eval_at_iter",
             fmt::format("validation.eval_interval={} comes no sooner", validation.eval_interval));
  }
  if (validation.answers == 0) {
    dead.add("validation.max_new_tokens", "validation.answers=0, so nothing is answered");
  }
}

// Whether each source says its maker itself, so that the run's own is nobody's.
template <class Source>
bool all_name_makers(const std::vector<Source>& sources) {
  return std::ranges::all_of(sources,
                             [](const Source& each) { return each.data.maker_name.has_value(); });
}

// Whether the run's own split is that of a source: where it says none and reads one of several.
template <class Source>
bool any_takes_split(const std::vector<Source>& sources, const std::string& usual_maker) {
  return std::ranges::any_of(sources, [&](const Source& each) {
    return !each.data.split &&
           split_matters(each.data.maker_name.value_or(usual_maker), each.data.path);
  });
}

// An entry of a source that chooses nothing of what its maker reads.
template <class Source>
void refuse_without_choice(std::string_view key, const std::vector<Source>& sources,
                           const std::string& usual_maker) {
  for (const Source& source : sources) {
    const DataSource& data = source.data;
    const std::string maker = data.maker_name.value_or(usual_maker);
    if (!data.split.value_or("").empty() && !split_matters(maker, data.path)) {
      user_error("{}: split: {} has no effect: {} is read whole, whatever the split; leave it out",
                 key, *data.split, data.path);
    }
    if (!data.subset.empty() && !is_on_hub(maker, data.path)) {
      user_error("{}: subset: {} has no effect: {} is no data set on the Hub by its name", key,
                 data.subset, data.path);
    }
  }
}

void add_of_sources(const TrainConfig& config, Dead& dead) {
  const std::string& maker = config.dataset.maker_name;
  const auto& blend = config.dataset.blend;
  const auto& sets = config.validation.sets;
  refuse_without_choice("dataset.blend", blend, maker);
  refuse_without_choice("validation.sets", sets, maker);
  const std::string of_blend = "no set of dataset.blend takes it";
  if (!blend.empty()) {
    dead.add("dataset.subset", of_blend);
    if (!any_takes_split(blend, maker)) dead.add("dataset.split", of_blend);
    const bool has_other = config.validation.is_on() && !config.validation.path_or_dataset.empty();
    if (all_name_makers(blend) && all_name_makers(sets) && !has_other) {
      dead.add("dataset.maker_name", of_blend);
    }
  }
  if (!sets.empty()) {
    const std::string of_sets = "no set of validation.sets takes it";
    dead.add("validation.subset", of_sets);
    if (!any_takes_split(sets, maker)) dead.add("validation.split", of_sets);
  }
}

void add_of_splits(const TrainConfig& config, Dead& dead) {
  const auto add = [&](const char* key, const std::string& path) {
    if (path.empty() || split_matters(config.dataset.maker_name, path)) return;
    dead.add(key, fmt::format("{} is read whole, whatever the split", path));
  };
  const auto add_subset = [&](const char* key, const std::string& path) {
    if (path.empty() || is_on_hub(config.dataset.maker_name, path)) return;
    dead.add(key, fmt::format("{} is no data set on the Hub by its name", path));
  };
  add("dataset.split", config.dataset.path_or_dataset);
  add_subset("dataset.subset", config.dataset.path_or_dataset);
  add_of_sources(config, dead);
  if (!config.validation.sets.empty()) return;
  // By default it chooses among the files of the training data.
  const std::string& own = config.validation.path_or_dataset;
  add("validation.split", own.empty() ? config.dataset.path_or_dataset : own);
  add_subset("validation.subset", own.empty() ? config.dataset.path_or_dataset : own);
}

void add_of_peft(const TrainConfig& config, Dead& dead) {
  const LoraConfig& peft = config.peft;
  if (!config.trains_adapters()) {
    dead.add("peft.", "peft.scheme is empty: the weights themselves train", "peft.scheme");
  }
  if (pissa_iterations(peft.lora_A_init_method)) {
    dead.add("peft.lora_B_init_method",
             fmt::format("peft.lora_A_init_method={} settles both", peft.lora_A_init_method));
  }
  if (!peft.adapter_path.empty()) {
    const auto why = fmt::format("peft.adapter_path={} has its weights already", peft.adapter_path);
    dead.add("peft.lora_A_init_method", why);
    dead.add("peft.lora_B_init_method", why);
  }
}

// A value that asks for what is done anyway is let be.
void add_of_checkpoint(const TrainConfig& config, Dead& dead) {
  const CheckpointOptions& checkpoint = config.checkpoint;
  const bool begins = checkpoint.load.empty() || checkpoint.finetune;
  const std::string_view why = checkpoint.load.empty()
                                   ? "checkpoint.load is empty, so nothing is gone on with"
                                   : "checkpoint.finetune=true takes the weights alone";
  if (begins && !checkpoint.load_optim) dead.add("checkpoint.load_optim", std::string(why));
  if (begins && !checkpoint.load_rng) dead.add("checkpoint.load_rng", std::string(why));
  if (checkpoint.load.empty()) dead.add("checkpoint.ckpt_step", std::string(why));
  if (const auto& retained = checkpoint.save_retain_interval) {
    const bool all = checkpoint.most_recent_k < 0;
    if (*retained == 1) {
      dead.add(all ? "checkpoint.save_retain_interval" : "checkpoint.most_recent_k",
               all ? "every checkpoint is kept without it"
                   : "checkpoint.save_retain_interval=1 keeps every checkpoint");
    } else if (all) {
      dead.add(
          "checkpoint.most_recent_k",
          fmt::format("of what checkpoint.save_retain_interval={} does not keep the last stays",
                      *retained));
    }
  }
  if (!checkpoint.also_save_hf_checkpoint) {
    dead.add("checkpoint.hf_source_path",
             "checkpoint.also_save_hf_checkpoint=false, so nothing is exported");
    dead.offer("checkpoint.hf_source_path", "checkpoint.also_save_hf_checkpoint=true");
  }
}

void add_of_logger(const TrainConfig& config, Dead& dead) {
  const LoggerOptions& logger = config.logger;
  if (logger.mlflow_experiment.empty()) {
    dead.add("logger.mlflow_", "logger.mlflow_experiment is not set, so MLflow is off");
    dead.allow("logger.mlflow_experiment");
  }
  if (!config.profiling.use_pytorch_profiler) {
    dead.add("profiling.", "profiling.use_pytorch_profiler=false, so nothing is traced",
             "profiling.use_pytorch_profiler");
  }
  const std::optional<std::string>& project = logger.wandb_project;
  if (project ? !project->empty() : is_set("WANDB_PROJECT")) return;
  const std::string why = project
                              ? "logger.wandb_project is set to nothing, so Weights & Biases is off"
                              : "logger.wandb_project is not set, so Weights & Biases is off";
  // One that is set to nothing only keeps the environment out.
  if (logger.wandb_entity != "") dead.add("logger.wandb_entity", why);
  if (logger.wandb_save_dir != "") dead.add("logger.wandb_save_dir", why);
  dead.add("logger.wandb_exp_name", why);
}
}  // namespace

void refuse_without_effect(const SettledRun& run) {
  const TrainConfig& config = run.config;
  Dead dead(config);
  add_of_model_and_steps(config, dead);
  add_of_validation(config, dead);
  add_of_splits(config, dead);
  add_of_peft(config, dead);
  add_of_checkpoint(config, dead);
  add_of_logger(config, dead);
  if (!vision_is_frozen(config)) {
    const std::string why = "vision tower or projector train, so no features can be kept";
    dead.add("dataset.feature_cache", why);
    dead.add("dataset.feature_cache_mb", why);
  }
  dead.refuse(run.asked.keys);
  if (length_is_known(config)) refuse_behind_the_end(config, run.asked.keys);
}

}  // namespace trestle
