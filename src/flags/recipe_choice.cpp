#include "flags/recipe_choice.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/suggestion.h"
#include "recipes/recipes.h"

namespace trestle {

namespace {

const std::map<std::string, std::string>& makers() {
  static const std::map<std::string, std::string> table = {{"cord-v2", "make_cord_v2_dataset"},
                                                           {"cord_v2", "make_cord_v2_dataset"},
                                                           {"medpix", "make_medpix_dataset"},
                                                           {"raven", "make_raven_dataset"},
                                                           {"local-jsonl", "jsonl"},
                                                           {"local-vlm", "jsonl"},
                                                           {"vlm-hf", ""},
                                                           {"vlm-preloaded", "jsonl"}};
  return table;
}

constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kShortFlags = {
    {{"-ms", "--max_steps"},
     {"-gb", "--global_batch_size"},
     {"-mb", "--micro_batch_size"},
     {"-sl", "--seq_length"},
     {"-tp", "--tensor_model_parallel_size"},
     {"-pp", "--pipeline_model_parallel_size"},
     {"-cp", "--context_parallel_size"},
     {"-vp", "--virtual_pipeline_model_parallel_size"}}};

}  // namespace

void add_recipe_choice(Command command, RecipeChoice& choice) {
  Flag recipe = command.add("--recipe", choice.recipe,
                            fmt::format("see trestle recipes; default {}", kUsualRecipe));
  command
      .add("--model", choice.model,
           "instead of --recipe: its name's beginning (ministral3_3b); --mode says the rest")
      .excludes(recipe);
  command.add("--mode", choice.mode, "sft, lora or dora; default: what the recipe's name says")
      .one_of({"sft", "lora", "dora"});
  std::vector<std::string> names;
  for (const auto& [name, maker] : makers()) names.push_back(name);
  command
      .add("--dataset", choice.dataset,
           "a data set's name at Megatron Bridge; dataset.path_or_dataset says where it lies")
      .one_of(names);
  command
      .add(
          "--step-func,--step_func", [](const std::string&) {},
          "vlm_step, the one there is: pictures and text")
      .one_of({"vlm_step"});
}

std::string chosen_recipe(const RecipeChoice& choice) {
  const auto& [recipe, model, mode, dataset] = choice;
  if (recipe.empty() && model.empty()) return kUsualRecipe;
  if (!model.empty()) {
    if (mode.empty()) user_error("--model {} needs --mode sft, lora or dora", model);
    const std::string name = model + (mode == "sft" ? "_sft_config" : "_peft_config");
    if (std::ranges::find(recipes(), name, &Recipe::name) == recipes().end()) {
      std::vector<std::string> names;
      for (const Recipe& each : recipes()) names.push_back(each.name);
      user_error("--model {} --mode {}: there is no recipe {}; {}", model, mode, name,
                 did_you_mean(name, names, "trestle recipes lists them"));
    }
    return name;
  }
  const bool of_weights = recipe.find("_sft_") != std::string::npos;
  const bool of_adapters = recipe.find("_peft_") != std::string::npos;
  if ((mode == "sft" && of_adapters) || ((mode == "lora" || mode == "dora") && of_weights)) {
    user_error("--mode {} contradicts --recipe {}; leave one out", mode, recipe);
  }
  return recipe;
}

std::vector<Assignment> chosen_keys(const RecipeChoice& choice) {
  std::vector<Assignment> keys;
  if (!choice.mode.empty()) {
    keys.push_back({"peft.scheme", choice.mode == "sft" ? "none" : choice.mode});
  }
  if (!choice.dataset.empty()) {
    const std::string& maker = makers().at(choice.dataset);
    // The recipe's own.
    keys.push_back({"dataset.maker_name", maker.empty() ? std::nullopt : std::optional(maker)});
  }
  return keys;
}

void spell_short_flags(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    if (argument == "--") return;  // behind it stand no flags
    std::string_view flag = std::string_view(argument).substr(0, argument.find('='));
    // Python's argparse takes -gb4 as it takes -gb 4.
    const bool is_glued =
        flag.size() == argument.size() && flag.size() > 3 && flag[3] >= '0' && flag[3] <= '9';
    if (is_glued) flag = flag.substr(0, 3);
    const auto found =
        std::ranges::find(kShortFlags, flag, [](const auto& each) { return each.first; });
    if (found != kShortFlags.end()) {
      argument.replace(0, flag.size(), std::string(found->second) + (is_glued ? "=" : ""));
    }
  }
}

}  // namespace trestle
