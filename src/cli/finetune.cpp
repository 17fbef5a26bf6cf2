// `trestle finetune` and `trestle recipes`: a run's config from recipe, file and overrides, and the
// run.
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/standard_streams.h"
#include "base/stop_signal.h"
#include "cli/commands.h"
#include "cpu/cpu.h"
#include "flags/number_flag.h"
#include "flags/run_choice.h"
#include "model/ministral3.h"
#include "parallel/agreement.h"
#include "parallel/environment.h"
#include "parallel/world.h"
#include "peft/report.h"
#include "recipes/bridge_keys.h"
#include "recipes/effects.h"
#include "recipes/recipes.h"
#include "recipes/schedule.h"
#include "run/identity.h"
#include "run/run_directory.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace trestle {

namespace {

struct FinetuneFlags {
  RecipeChoice choice;
  std::string config_file;
  /// Of flags that stand for a key, in both spellings.
  std::map<std::string, std::string> values;
  /// Those that were given, on or (=false) off.
  std::map<std::string, bool> freeze;
  std::vector<std::string> overrides, may_change;
  bool print_config = false;
};

SettledRun settled(const FinetuneFlags& flags) {
  std::vector<Assignment> command_line;
  for (const auto& [key, value] : flags.values) {
    // hf is the recipe's own maker.
    const bool is_default = key == "dataset.maker_name" && value == "hf";
    command_line.push_back({key, is_default ? std::nullopt : std::optional(value)});
  }
  for (const auto& [key, on] : flags.freeze) command_line.push_back({key, on ? "true" : "false"});
  for (const Assignment& each : chosen_keys(flags.choice)) command_line.push_back(each);
  for (const std::string& each : flags.overrides) command_line.push_back(parse_override(each));
  SettledRun run = settle_chosen(flags.choice, flags.config_file, command_line);
  name_data(run.config.dataset);
  if (flags.choice.recipe.empty() && flags.choice.model.empty()) {
    run.notes.push_back(fmt::format("no --recipe: {}", kUsualRecipe));
  }
  run.asked.may_change = {flags.may_change.begin(), flags.may_change.end()};
  require_changeable(run.asked.may_change);
  if (!flags.may_change.empty() && run.config.checkpoint.load.empty()) {
    user_error("--allow-change {} has no effect without checkpoint.load", flags.may_change.front());
  }
  if (!flags.may_change.empty() && run.config.checkpoint.finetune &&
      !run.config.trains_adapters()) {
    user_error(
        "--allow-change {} has no effect: checkpoint.finetune=true begins a run, which may differ "
        "in any key",
        flags.may_change.front());
  }
  in_typed_words(run.typed, [&] {
    run.config.validate_values();
    refuse_without_effect(run);
  });
  return run;
}

// As a file that is given back says it. What rows and checkpoint will say is not known before they
// are read.
std::string printed(const TrainConfig& config) {
  std::string yaml = std::string(kResolvedConfigMark) + to_yaml(config);
  if (length_is_known(config)) return yaml;
  const std::string line = fmt::format("\n  train_iters: {}\n", config.train.train_iters);
  return yaml.replace(yaml.find(line), line.size(),
                      config.train.num_epochs
                          ? "\n  train_iters: ~  # of train.num_epochs and the number of rows\n"
                          : "\n  train_iters: ~  # of train.train_samples and checkpoint.load\n");
}

// A layer's shards, a pipeline's stages and a sequence's parts make the same sums as the whole.
void tell_of_parallelism(const TrainConfig& config, const Asked& asked, const Ranks& ranks) {
  if (!ranks.is_one()) {
    if (asked.keys.contains("peft.shard_base") && config.peft.shard_base &&
        ranks.grid.gradients.is_one()) {
      fmt::print(stderr,
                 "peft.shard_base=true: no two of these {} ranks have the same layers to share\n",
                 ranks.size);
    }
    return;
  }
  for (const FieldText& each : list_fields(config)) {
    const bool is_of_ranks = each.path == "optimizer.use_distributed_optimizer" ||
                             each.path == "peft.shard_base" || each.path.starts_with("dist.");
    if (!is_of_ranks || !asked.keys.contains(each.path)) continue;
    fmt::print(stderr,
               "{}={} is for several ranks; this one process shares nothing and waits for nobody\n",
               each.path, each.value);
  }
  std::map<std::string, std::string> by_default;
  for (const FieldText& each : list_fields(ModelOptions())) by_default[each.path] = each.value;
  for (const FieldText& each : list_fields(config.model)) {
    const bool is_parallel = each.path.find("parallel") != std::string::npos ||
                             each.path.find("pipeline") != std::string::npos;
    if (!is_parallel || each.value == by_default.at(each.path)) continue;
    fmt::print(stderr,
               "model.{}={} is for several ranks; this one process holds the whole model and "
               "computes the same\n",
               each.path, each.value);
  }
}

// Returns the signal that stopped the run, or 0.
int train(const SettledRun& run, const World& world) {
  Trainer trainer(run.config, run.asked, world);
  const TrainConfig& config = trainer.config();  // with what data and adapter settle
  tell_of_parallelism(config, run.asked, trainer.ranks());
  if (config.dtype() == at::kBFloat16 && bf16_path() == Bf16Path::kWidened) {
    fmt::print(stderr, "{}\n", describe_bf16_path());
  }
  for (const std::string& line :
       describe_training_data(config, trainer.dataset(), trainer.progress())) {
    fmt::print(stderr, "data {}\n", line);
  }
  if (config.trains_adapters()) fmt::print(stderr, "{}", adapter_report(trainer.model()));
  int64_t trainable = 0, total = 0;
  for (const at::Tensor& parameter : trainer.model().parameters()) {
    total += parameter.numel();
    if (parameter.requires_grad()) trainable += parameter.numel();
  }
  fmt::print(stderr, "training {:L} of {:L} parameters ({:.2f} %), from step {} to {}\n", trainable,
             total, 100.0 * static_cast<double>(trainable) / static_cast<double>(total),
             trainer.progress().step, config.train.train_iters);
  if (trainer.progress().step >= config.train.train_iters) {
    fmt::print(stderr, "nothing to train: checkpoint.load={} has made {} of train.train_iters={}\n",
               config.checkpoint.load, trainer.progress().step, config.train.train_iters);
    // In its own directory what a killed process had begun behind its last step is still ended.
    if (config.checkpoint.load != config.checkpoint.save) return 0;
  }
  return trainer.run();
}

// The same of one rank of several, of whose errors each names its rank. What the first rank tells
// too is not told; nothing comes back where that is why they fail.
std::optional<int> train_as_rank(const SettledRun& run, const World& world) {
  if (world.is_first()) return train(run, world);
  const auto named = [&](const std::exception& error) {
    return fmt::format("rank {}: {}", world.rank(), error.what());
  };
  try {
    const SilentMessages silent;
    return train(run, world);
  } catch (const AgreedError&) {
    return std::nullopt;
  } catch (const LostRank&) {
    throw;  // it does
  } catch (const UserError& error) {
    throw UserError(named(error));
  } catch (const MachineError& error) {
    throw MachineError(named(error));
  }
}

// What a watchdog found: the ranks wait for one that will not come, and this one in a collective
// from which nothing brings it back.
void end_told(const std::string& report) {
  if (!report.empty()) {
    // Past SilentMessages: the first rank may be the one that is gone.
    const std::string line = fmt::format("trestle: {}\n", report);
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
  }
  std::_Exit(1);
}

void finetune(const FinetuneFlags& flags) {
  const RankEnvironment environment = rank_environment();
  const SettledRun run = settled(flags);
  if (environment.rank == 0) {
    for (const std::string& note : run.notes) fmt::print(stderr, "{}\n", note);
  }
  if (flags.print_config) {
    if (environment.rank == 0) fmt::print("{}", printed(run.config));
    return;
  }
  silence_warnings();
  World world(environment, std::chrono::minutes(run.config.dist.distributed_timeout_minutes));
  world.watch(end_told);
  const auto stopped = in_typed_words(run.typed, [&] { return train_as_rank(run, world); });
  if (!stopped) throw ToldByFirstRank("the first rank tells why");
  // To whoever started it the run has ended by the signal, saved as it is.
  if (*stopped != 0) end_by_signal(*stopped);
}

// As docs/keys.md has it.
std::string keys_table() {
  std::string out = "| key | default | may be | on resume | |\n|---|---|---|---|---|\n";
  for (const FieldText& each : list_fields(TrainConfig{})) {
    std::string allowed = each.allowed;
    if (allowed.starts_with("must be ")) allowed = allowed.substr(8);
    const std::string value = each.value.empty() ? "" : fmt::format("`{}`", each.value);
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", each.path, value, allowed,
                       on_resume_text(each.on_resume), each.help);
  }
  return out;
}

}  // namespace

void add_finetune(Command app) {
  Command command = app.add_command("finetune", "train: full fine-tuning, LoRA or DoRA");
  auto flags = std::make_shared<FinetuneFlags>();
  add_recipe_choice(command, flags->choice);
  command.add("--config", flags->config_file, "YAML file over the recipe");
  // A flag is another name of a key.
  const std::vector<FieldText> fields = list_fields(TrainConfig{});
  const auto add = [&](const char* names, const char* key, const char* help) {
    return command.add(
        names, [flags, key](const std::string& value) { flags->values[key] = value; }, help);
  };
  // Of a number, which is read with the other keys.
  const auto add_of_number = [&](const char* names, const char* key, const char* help) {
    const auto field = std::ranges::find(fields, key, &FieldText::path);
    add_checked(
        command, names, help, field->allowed, !std::string_view(key).ends_with("lr"),
        [flags, key](const std::string&, const std::string& value) { flags->values[key] = value; });
  };
  add("--pretrained-checkpoint,--pretrained_checkpoint", "checkpoint.pretrained_checkpoint",
      "HF or Megatron directory or ORG/NAME[@REVISION] to start from");
  add("--dataset-type,--dataset_type", "dataset.maker_name",
      "hf (the recipe's maker), jsonl, parquet or webdataset")
      .one_of({"hf", "jsonl", "parquet", "webdataset"});
  add("--peft-scheme,--peft_scheme", "peft.scheme",
      "lora, dora or none; decides the recipe's learning rates too")
      .one_of({"lora", "dora", "none"});
  add("--device", "train.device", "where it computes: auto, cpu, cuda or cuda:N");
  add("--on-nan,--on_nan", "train.on_nan",
      "stop at a step whose loss or gradient is no number, or skip it")
      .one_of({"stop", "skip"});
  add_of_number("--train-iters,--train_iters,--max-steps,--max_steps", "train.train_iters",
                "optimizer steps (-ms)");
  add_of_number("--global-batch-size,--global_batch_size", "train.global_batch_size",
                "samples a step (-gb)");
  add_of_number("--micro-batch-size,--micro_batch_size", "train.micro_batch_size",
                "samples a forward (-mb)");
  add_of_number("--seq-length,--seq_length", "model.seq_length", "longest sample in tokens (-sl)");
  add_of_number("--lr", "optimizer.lr", "peak learning rate");
  add_of_number("--min-lr,--min_lr", "optimizer.min_lr", "where the schedule ends");
  add_of_number("--warmup-iters,--warmup_iters", "scheduler.lr_warmup_iters",
                "steps of linear warm-up");
  add_of_number("--save-interval,--save_interval", "checkpoint.save_interval",
                "steps between checkpoints");
  add("--save-dir,--save_dir", "checkpoint.save", "run directory");
  add("--load-dir,--load_dir", "checkpoint.load", "run directory to resume from, or auto");
  add_of_number("--tensor-model-parallel-size,--tensor_model_parallel_size",
                "model.tensor_model_parallel_size", "GPUs that share each layer (-tp)");
  add_of_number("--pipeline-model-parallel-size,--pipeline_model_parallel_size",
                "model.pipeline_model_parallel_size", "stages of layers (-pp)");
  add_of_number("--context-parallel-size,--context_parallel_size", "model.context_parallel_size",
                "GPUs that share a sequence (-cp)");
  add_of_number("--virtual-pipeline-model-parallel-size,--virtual_pipeline_model_parallel_size",
                "model.virtual_pipeline_model_parallel_size",
                "runs of layers that each stage takes by turns (-vp)");
  add("--overlong", "dataset.overlong",
      "samples over model.seq_length: error, drop, shrink-image or cut-text");
  add_of_number("--image-max-edge,--image_max_edge", "dataset.image_max_edge",
                "pixels of a picture's longest side at most");
  add_of_number("--image-max-tokens,--image_max_tokens", "dataset.image_max_tokens",
                "tokens of a picture at most");
  for (const char* part : {"language_model", "vision_model", "vision_projection"}) {
    const std::string key = fmt::format("freeze_{}", part);
    std::string dashed = key;
    std::ranges::replace(dashed, '_', '-');
    command.add_switch(
        fmt::format("--{},--{}", dashed, key),
        [flags, key](bool on) { flags->freeze[fmt::format("model.{}", key)] = on; },
        "train nothing of it");
  }
  command
      .add("--allow-change,--allow_change", flags->may_change,
           "with checkpoint.load: a key that may differ from what the run was saved "
           "with (docs/keys.md says which must not); repeat for several")
      .one_value_each();  // what follows it is an override
  command.add_switch("--print-config,--print_config,--dry-run,--dry_run", flags->print_config,
                     "print the resolved config and stop");
  command.flag("--mode").excludes(command.flag("--peft-scheme"));
  command.flag("--dataset").excludes(command.flag("--dataset-type"));
  command.add("overrides", flags->overrides, "key.sub=value, over everything else");
  command.on_run([flags] { finetune(*flags); });
}

void add_recipes(Command app) {
  struct Flags {
    std::string name;
    bool keys = false, bridge_keys = false;
  };
  Command command = app.add_command("recipes", "list the recipes, or print one whole config");
  auto flags = std::make_shared<Flags>();
  const Flag name = command.add("name", flags->name, "a recipe");
  Flag keys = command.add_switch(
      "--keys", flags->keys,
      "every key as a Markdown table: default, what it may be, what a resumed run must "
      "have, what it does");
  keys.excludes(name);
  command
      .add_switch("--bridge-keys,--bridge_keys", flags->bridge_keys,
                  "every key of Megatron Bridge as a Markdown table: what it is here, or why not")
      .excludes(name)
      .excludes(keys);
  command.on_run([flags] {
    if (flags->keys) {
      fmt::print("{}", keys_table());
    } else if (flags->bridge_keys) {
      fmt::print("{}", bridge_keys_table());
    } else if (!flags->name.empty()) {
      fmt::print("{}", to_yaml(recipe(flags->name)));
    } else {
      for (const Recipe& each : recipes()) fmt::print("{:<32} {}\n", each.name, each.help);
      fmt::print("\nMegatron Bridge's longer names are known too: {}\n",
                 fmt::join(other_recipe_names(), ", "));
    }
  });
}

}  // namespace trestle
