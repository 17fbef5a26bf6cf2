// `trestle finetune` and `trestle recipes`: a run's config from recipe, file and overrides, and the
// run.
#include <CLI/CLI.hpp>
#include <csignal>
#include <memory>

#include "base/file.h"
#include "cli/commands.h"
#include "peft/report.h"
#include "train/recipes.h"
#include "train/trainer.h"

namespace trestle {

namespace {

struct FinetuneFlags {
  std::string recipe, config_file, peft_scheme, on_nan, overlong;
  std::optional<int64_t> image_max_edge, image_max_tokens;
  FinetuneArguments arguments;
  std::vector<std::string> overrides;
  bool print_config = false;
};

TrainConfig settle(const FinetuneFlags& flags) {
  FinetuneArguments arguments = flags.arguments;
  arguments.name = flags.recipe;
  if (!flags.peft_scheme.empty()) arguments.peft = flags.peft_scheme;
  TrainConfig config = recipe(flags.recipe, arguments);
  if (!flags.config_file.empty()) {
    apply_yaml(config, read_text(flags.config_file, 1 << 20), flags.config_file);
    // What the command line says counts more than the file.
    if (!arguments.pretrained_checkpoint.empty())
      config.checkpoint.pretrained_checkpoint = arguments.pretrained_checkpoint;
    if (arguments.dataset_type != "hf") config.dataset.maker_name = arguments.dataset_type;
    if (arguments.peft) config.peft.scheme = *arguments.peft == "none" ? "" : *arguments.peft;
    config.model.freeze_language_model |= arguments.freeze_language_model;
    config.model.freeze_vision_model |= arguments.freeze_vision_model;
    config.model.freeze_vision_projection |= arguments.freeze_vision_projection;
  }
  if (!flags.on_nan.empty()) config.train.on_nan = flags.on_nan;
  if (!flags.overlong.empty()) config.dataset.overlong = flags.overlong;
  const auto set = [](int64_t& value, const std::optional<int64_t>& flag) {
    value = flag.value_or(value);
  };
  set(config.train.train_iters, arguments.train_iters);
  set(config.train.global_batch_size, arguments.global_batch_size);
  set(config.dataset.image_max_edge, flags.image_max_edge);
  set(config.dataset.image_max_tokens, flags.image_max_tokens);
  for (const std::string& each : flags.overrides) apply_override(config, each);
  return config;
}

void finetune(const FinetuneFlags& flags) {
  const TrainConfig config = settle(flags);
  if (flags.print_config) {
    fmt::print("{}", to_yaml(config));
    return;
  }
  if (const int64_t size = config.model.tensor_model_parallel_size; size > 1) {
    fmt::print(
        stderr,
        "model.tensor_model_parallel_size={} is for as many GPUs; this one process holds the "
        "whole model and computes the same\n",
        size);
  }
  Trainer trainer(config);
  if (config.trains_adapters()) fmt::print(stderr, "{}", adapter_report(trainer.model()));
  int64_t trainable = 0, total = 0;
  for (const at::Tensor& parameter : trainer.model().parameters()) {
    total += parameter.numel();
    if (parameter.requires_grad()) trainable += parameter.numel();
  }
  fmt::print(stderr, "training {:L} of {:L} parameters ({:.2f} %), from step {} to {}\n", trainable,
             total, 100.0 * static_cast<double>(trainable) / static_cast<double>(total),
             trainer.progress().step, config.train.train_iters);
  // To whoever started it the run has ended by the signal, saved as it is.
  if (const int stopped = trainer.run(); stopped != 0) std::raise(stopped);
}

}  // namespace

void add_finetune(CLI::App& app) {
  CLI::App* command = app.add_subcommand("finetune", "train: full fine-tuning, LoRA or DoRA");
  auto flags = std::make_shared<FinetuneFlags>();
  command->add_option("--recipe", flags->recipe, "see trestle recipes")->required();
  command->add_option("--config", flags->config_file, "YAML file over the recipe");
  command->add_option("--pretrained-checkpoint,--pretrained_checkpoint",
                      flags->arguments.pretrained_checkpoint,
                      "HF or Megatron directory or ORG/NAME[@REVISION] to start from");
  command
      ->add_option("--dataset-type,--dataset_type", flags->arguments.dataset_type,
                   "hf (the recipe's maker), jsonl, parquet or webdataset")
      ->check(CLI::IsMember({"hf", "jsonl", "parquet", "webdataset"}));
  command
      ->add_option("--peft-scheme,--peft_scheme", flags->peft_scheme,
                   "lora, dora or none; decides the recipe's learning rates too")
      ->check(CLI::IsMember({"lora", "dora", "none"}));
  command
      ->add_option("--on-nan,--on_nan", flags->on_nan,
                   "stop at a step whose loss or gradient is no number, or skip it")
      ->check(CLI::IsMember({"stop", "skip"}));
  command->add_option("--train-iters,--train_iters", flags->arguments.train_iters,
                      "optimizer steps");
  command->add_option("--global-batch-size,--global_batch_size", flags->arguments.global_batch_size,
                      "samples a step");
  command->add_option("--overlong", flags->overlong,
                      "samples over model.seq_length: error, drop, shrink-image or cut-text");
  command->add_option("--image-max-edge,--image_max_edge", flags->image_max_edge,
                      "pixels of a picture's longest side at most");
  command->add_option("--image-max-tokens,--image_max_tokens", flags->image_max_tokens,
                      "tokens of a picture at most");
  command->add_flag("--freeze-language-model,--freeze_language_model",
                    flags->arguments.freeze_language_model);
  command->add_flag("--freeze-vision-model,--freeze_vision_model",
                    flags->arguments.freeze_vision_model);
  command->add_flag("--freeze-vision-projection,--freeze_vision_projection",
                    flags->arguments.freeze_vision_projection);
  command->add_flag("--print-config,--print_config", flags->print_config,
                    "print the resolved config and stop");
  command->add_option("overrides", flags->overrides, "key.sub=value, over everything else");
  command->callback([flags] { finetune(*flags); });
}

void add_recipes(CLI::App& app) {
  CLI::App* command = app.add_subcommand("recipes", "list the recipes, or print one whole config");
  auto name = std::make_shared<std::string>();
  command->add_option("name", *name, "a recipe");
  command->callback([name] {
    if (!name->empty()) {
      fmt::print("{}", to_yaml(recipe(*name)));
      return;
    }
    for (const Recipe& each : recipes()) fmt::print("{:<32} {}\n", each.name, each.help);
  });
}

}  // namespace trestle
