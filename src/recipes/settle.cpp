#include "recipes/settle.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "base/error.h"
#include "data/datasets.h"
#include "peft/pissa.h"
#include "peft/targets.h"
#include "recipes/bridge_keys.h"
#include "recipes/recipes.h"

namespace trestle {

namespace {

// `none` is the flag's word for no adapters.
void name_no_scheme(std::vector<Assignment>& assignments) {
  for (Assignment& each : assignments) {
    if (each.key == "peft.scheme" && each.value == "none") each.value = "";
  }
}

// Scripts append to what they were given: the last value of a key counts, but not in silence.
std::vector<std::string> told_of_two_values(const std::vector<Assignment>& command_line) {
  std::vector<std::string> notes;
  std::map<std::string, std::string> last;
  for (const Assignment& each : command_line) {
    const std::string value = each.value.value_or("null");
    const auto [at, is_new] = last.emplace(each.key, value);
    if (!is_new && !same_value(at->second, value) && !same_value(value, at->second)) {
      notes.push_back(fmt::format("{0}={1} gives way to {0}={2}, which comes later", each.key,
                                  at->second, value));
      at->second = value;
    }
  }
  return notes;
}

// Last of the two lists, where either says it.
std::optional<std::string> scheme_of(const std::vector<Assignment>& file,
                                     const std::vector<Assignment>& command_line) {
  std::optional<std::string> scheme;
  for (const auto* list : {&file, &command_line}) {
    for (const auto& [key, value] : *list) {
      if (key == "peft.scheme") scheme = value;
    }
  }
  // For the recipe's function no adapters are "none".
  return scheme == "" ? "none" : scheme;
}

std::map<std::string, std::string> values_of(const TrainConfig& config) {
  std::map<std::string, std::string> values;
  for (const FieldText& each : list_fields(config)) values[each.path] = each.value;
  return values;
}

// What of a run cannot have an effect: `key`, or all keys that begin so where it ends in a dot or
// underscore, and why.
class Dead {
 public:
  explicit Dead(const TrainConfig& config) : values_(values_of(config)) {}

  void add(std::string_view key, std::string why, std::string_view but = {}) {
    for (const auto& [path, value] : values_) {
      const bool is_start = key.ends_with('.') || key.ends_with('_');
      const bool named = is_start ? path.starts_with(key) : path == key;
      if (named && path != but) why_.emplace(path, why);
    }
  }
  void allow(const std::string& key) { why_.erase(key); }
  void refuse(const std::set<std::string>& asked) const {
    for (const auto& [path, why] : why_) {
      if (asked.contains(path)) {
        user_error("{}={} has no effect: {}; leave it out", path, values_.at(path), why);
      }
    }
  }

 private:
  std::map<std::string, std::string> values_, why_;
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
  if (!checkpoint.also_save_hf_checkpoint) {
    dead.add("checkpoint.hf_source_path",
             "checkpoint.also_save_hf_checkpoint=false, so nothing is exported");
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

// Megatron Bridge's page gives freeze flags beside adapters, under which the base is frozen anyway:
// a line for each, but for a part that adapters are to train.
std::vector<std::string> told_of_freezing(const TrainConfig& config,
                                          const std::set<std::string>& asked) {
  std::vector<std::string> notes;
  if (!config.trains_adapters()) return notes;
  const auto look = [&](const std::string& key, bool frozen, std::string_view component) {
    if (!asked.contains(key)) return;
    if (frozen && config.peft.adapter_path.empty()) {
      for (const auto& [place, parts] : chosen_parts(config.peft.target_modules)) {
        if (!place.starts_with(component)) continue;
        user_error("{}=true, but peft.target_modules has {}, which adapters train; leave one out",
                   key, place);
      }
    }
    notes.push_back(
        fmt::format("{}={} changes nothing: adapters freeze the whole base", key, frozen));
  };
  // The language model's adapters are what a run without other targets is about.
  look("model.freeze_language_model", config.model.freeze_language_model, "-");
  look("model.freeze_vision_model", config.model.freeze_vision_model, "vision.");
  look("model.freeze_vision_projection", config.model.freeze_vision_projection, "projector.");
  return notes;
}

// Keys that say one thing in several ways: the one on the command line goes before another in the
// file.
void give_way(SettledRun& run, const std::vector<Assignment>& command_line,
              const TrainConfig& defaults) {
  static const std::vector<std::vector<std::string>> kOneThing = {
      {"train.train_iters", "train.train_samples", "train.num_epochs"},
      {"scheduler.lr_warmup_iters", "scheduler.lr_warmup_fraction"}};
  for (const auto& keys : kOneThing) {
    const auto is_given = [&](const std::string& key) {
      return std::ranges::any_of(
          command_line, [&](const Assignment& each) { return each.key == key && each.value; });
    };
    if (std::ranges::none_of(keys, is_given)) continue;
    for (const std::string& key : keys) {
      if (is_given(key)) continue;
      set_field(run.config, {key, std::nullopt}, defaults);
      run.asked.keys.erase(key);
    }
  }
}

}  // namespace

namespace {

// What may have been meant is a key of ours or of the Bridge's.
void require_known(const std::string& key, const std::map<std::string, std::string>& values,
                   bool may_be_group) {
  const auto is_in_group = [&](const auto& each) { return each.first.starts_with(key + "."); };
  if (values.contains(key) || (may_be_group && std::ranges::any_of(values, is_in_group))) return;
  std::vector<FieldText> known = list_fields(TrainConfig{});
  for (std::string& each : bridge_key_names()) {
    known.emplace_back();
    known.back().path = std::move(each);
  }
  unknown_key(key, known);
}

SettledRun settle_translated(const std::string& name, OfBridge of_file, OfBridge of_line,
                             bool is_resolved) {
  auto& [file, notes, typed_in_file, is_written] = of_file;
  auto& [command_line, more_notes, typed, is_none] = of_line;
  name_no_scheme(file);
  name_no_scheme(command_line);
  FinetuneArguments arguments;
  arguments.name = name;
  arguments.peft = scheme_of(file, command_line);
  const TrainConfig defaults = recipe(name, arguments);
  SettledRun run{defaults, {}, std::move(notes), typed};
  run.typed.merge(typed_in_file);
  const auto add_notes = [&run](const std::vector<std::string>& lines) {
    run.notes.insert(run.notes.end(), lines.begin(), lines.end());
  };
  add_notes(more_notes);
  add_notes(told_of_two_values(command_line));
  if (!is_written) add_notes(told_of_two_values(file));
  const auto before = values_of(defaults);
  for (const Assignment& each : file) {
    require_known(each.key, before, /*may_be_group=*/true);
    set_field(run.config, each, defaults);
  }
  // A file may be a whole resolved config: what it leaves as it was it does not ask for, and one
  // that Megatron Bridge wrote asks for nothing by name.
  const auto after = values_of(run.config);
  for (const Assignment& each : file) {
    if (!before.contains(each.key)) continue;  // an empty group
    if (!is_written && !is_resolved && before.at(each.key) != after.at(each.key))
      run.asked.keys.insert(each.key);
  }
  give_way(run, command_line, defaults);
  for (const Assignment& each : command_line) {
    // What came before it for the keys of a group would be lost.
    require_known(each.key, before, /*may_be_group=*/false);
    set_field(run.config, each, defaults);
    if (each.value) {
      run.asked.keys.insert(each.key);
    } else {
      run.asked.keys.erase(each.key);
    }
  }
  TrainOptions& train = run.config.train;
  // Fewer than fill one step are refused with the other values.
  if (train.train_samples.value_or(0) >= train.global_batch_size &&
      !run.asked.keys.contains("train.train_iters")) {
    train.train_iters = *train.train_samples / train.global_batch_size;
  }
  if (train.num_epochs) {
    add_notes({fmt::format("train.num_epochs={}: train.train_iters follows from the rows",
                           *train.num_epochs)});
  }
  add_notes(told_of_freezing(run.config, run.asked.keys));
  return run;
}

}  // namespace

SettledRun settle(const std::string& name, const std::vector<Assignment>& file_given,
                  const std::vector<Assignment>& command_line_given, bool is_resolved) {
  OfBridge file = of_bridge_file(file_given, "--config", command_line_given);
  OfBridge command_line = of_bridge(command_line_given);
  TypedKeys typed = command_line.typed;
  typed.insert(file.typed.begin(), file.typed.end());
  return in_typed_words(typed, [&] {
    return settle_translated(name, std::move(file), std::move(command_line), is_resolved);
  });
}

void name_data(DatasetOptions& dataset) {
  if (!dataset.path_or_dataset.empty() || !dataset.blend.empty()) return;
  dataset.path_or_dataset = hub_name_of_maker(dataset.maker_name).path;
}

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
}

}  // namespace trestle
