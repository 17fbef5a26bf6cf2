#include "flags/run_choice.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/paths.h"
#include "bridge/load.h"
#include "checkpoint/format.h"
#include "checkpoint/hf_config.h"
#include "megatron/checkpoint.h"
#include "planner/shape.h"
#include "recipes/bridge_keys.h"
#include "run/run_directory.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

bool is_fp8(const Json& config) {
  const auto found = config.find("quantization_config");
  return found != config.end() && found->is_object() && found->value("quant_method", "") == "fp8";
}

// Of a directory without its weights, of one with them, or of a config.json alone.
FoundModel model_at(const fs::path& path) {
  if (kind_of(path) != "a directory") {
    const Json config = read_json(path);
    return {parse_hf_config(config, path.string()), is_fp8(config)};
  }
  if (is_megatron_checkpoint(path)) return {OpenCheckpoint(path).config()};
  const auto [config, name] = read_config_json(path);
  return {parse_hf_config(config, name), is_fp8(config)};
}

// "3b" of ministral3_3b_sft_config; nothing of a recipe without a size.
std::string size_of(const std::string& recipe) {
  constexpr std::string_view kBegin = "ministral3_";
  if (!recipe.starts_with(kBegin)) return "";
  const std::string rest = recipe.substr(kBegin.size());
  return rest.substr(0, rest.find('_'));
}

}  // namespace

void add_run_choice(Command command, RunChoice& choice) {
  const Flag recipe = command.add("--recipe", choice.recipe.recipe,
                                  fmt::format("see trestle recipes; default {}", kUsualRecipe));
  command
      .add("--model", choice.recipe.model,
           "instead of --recipe: its name's beginning (ministral3_8b); --mode says the rest")
      .excludes(recipe);
  command
      .add("--mode", choice.recipe.mode, "sft, lora or dora; default: what the recipe's name says")
      .one_of({"sft", "lora", "dora"});
  command.add("--config", choice.config_file, "YAML file over the recipe");
  command.add("--hf-model-path,--hf_model_path", choice.model_path,
              "directory or config.json with the model's sizes; default: "
              "checkpoint.pretrained_checkpoint, else those of the recipe's name");
  command.add("overrides", choice.overrides,
              "key.sub=value; a parallel size among them holds that axis");
}

SettledRun settle_chosen(const RecipeChoice& recipe, const std::string& config_file,
                         const std::vector<Assignment>& command_line) {
  std::vector<Assignment> file;
  bool is_resolved = false;
  if (!config_file.empty()) {
    const std::string text = read_text(config_file, 1 << 20);
    is_resolved = text.starts_with(kResolvedConfigMark);
    file = flatten_yaml(load_yaml(text, config_file), config_file);
  }
  return settle(chosen_recipe(recipe), file, command_line, is_resolved);
}

SettledRun settled(const RunChoice& choice) {
  std::vector<Assignment> command_line = chosen_keys(choice.recipe);
  for (const std::string& each : choice.overrides) command_line.push_back(parse_override(each));
  SettledRun run = settle_chosen(choice.recipe, choice.config_file, command_line);
  in_typed_words(run.typed, [&] { run.config.validate_values(); });
  return run;
}

FoundModel found_model(const RunChoice& choice, const TrainConfig& config) {
  if (!choice.model_path.empty()) return model_at(choice.model_path);
  const std::string& named = config.checkpoint.pretrained_checkpoint;
  if (!named.empty() && is_there(named)) return model_at(named);
  const std::string recipe = chosen_recipe(choice.recipe), size = size_of(recipe);
  if (size.empty()) {
    user_error("{} is of no size of its own; name --hf-model-path, a directory or a config.json",
               recipe);
  }
  fmt::print(
      stderr, "{}the sizes are those of Ministral 3 {}, as the recipe names it\n",
      named.empty() ? "" : fmt::format("checkpoint.pretrained_checkpoint={} is not here: ", named),
      size);
  return {ministral3_of_size(size)};
}

}  // namespace trestle
