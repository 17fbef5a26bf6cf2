#include "recipes/settle.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "data/datasets.h"
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

}  // namespace trestle
