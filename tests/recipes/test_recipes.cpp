// The recipes: the whole config of each.
#include <gtest/gtest.h>

#include "base/file.h"
#include "errors.h"
#include "recipes/recipes.h"

namespace trestle {
namespace {

FinetuneArguments with_peft(const std::string& scheme) {
  FinetuneArguments arguments;
  arguments.peft = scheme;
  return arguments;
}

TEST(Recipes, RatesFollowTheScheme) {
  const TrainConfig dora = recipe("ministral3_8b_finetune_config", with_peft("dora"));
  EXPECT_EQ(dora.peft.scheme, "dora");
  EXPECT_EQ(dora.optimizer.lr, 1e-4);
  EXPECT_EQ(dora.optimizer.min_lr, 1e-5);
  const TrainConfig full = recipe("ministral3_8b_peft_config", with_peft("none"));
  EXPECT_EQ(full.peft.scheme, "");
  EXPECT_EQ(full.optimizer.lr, 5e-6);
  EXPECT_EQ(full.optimizer.min_lr, 5e-7);
}

TEST(Recipes, ArgumentsAreTheBridges) {
  FinetuneArguments arguments;
  arguments.pretrained_checkpoint = "model";
  arguments.dataset_type = "jsonl";
  arguments.train_iters = 7;
  arguments.global_batch_size = 3;
  arguments.freeze_vision_model = true;
  const TrainConfig config = ministral3_3b_finetune_config(arguments);
  EXPECT_EQ(config.checkpoint.pretrained_checkpoint, "model");
  EXPECT_EQ(config.dataset.maker_name, "jsonl");
  EXPECT_EQ(config.train.train_iters, 7);
  EXPECT_EQ(config.train.global_batch_size, 3);
  EXPECT_TRUE(config.model.freeze_vision_model);
  EXPECT_FALSE(config.model.freeze_language_model);
}

// users' pain point 14: recipes that fail.
TEST(Recipes, ResolvedConfigsAreTheCommittedOnes) {
  // To accept a change: trestle recipes NAME > tests/recipes/snapshots/NAME.yaml, and let the diff
  // be reviewed.
  for (const Recipe& each : recipes()) {
    EXPECT_EQ(to_yaml(each.make({})), read_text("recipes/snapshots/" + each.name + ".yaml"))
        << each.name;
  }
}

TEST(Recipes, TensorParallelIsThatOfTheBridgesTable) {
  const auto size = [](const std::string& name, const std::string& peft) {
    return recipe(name, peft.empty() ? FinetuneArguments() : with_peft(peft))
        .model.tensor_model_parallel_size;
  };
  EXPECT_EQ(size("ministral3_3b_sft_config", ""), 1);
  EXPECT_EQ(size("ministral3_8b_sft_config", ""), 2);
  EXPECT_EQ(size("ministral3_8b_peft_config", ""), 1);
  EXPECT_EQ(size("ministral3_14b_sft_config", ""), 4);
  EXPECT_EQ(size("ministral3_14b_peft_config", ""), 2);
  EXPECT_EQ(size("ministral3_14b_finetune_config", "dora"), 2);
  EXPECT_EQ(size("ministral3_14b_peft_config", "none"), 4);
}

TEST(Recipes, AnswerToAllNamesOfTheBridge) {
  for (const std::string& other : other_recipe_names()) {
    std::string name = other;
    name.replace(name.find("_config"), std::string::npos, "");
    // ministral3_3b_sft_1gpu_h100_bf16 -> ministral3_3b_sft
    const size_t gpus = name.find("gpu_");
    ASSERT_NE(gpus, std::string::npos) << other;
    name = name.substr(0, name.rfind('_', gpus)) + "_config";
    EXPECT_EQ(to_yaml(recipe(other)), to_yaml(recipe(name))) << other;
    // As many GPUs as it was tuned on: what shares a layer there, of one each else.
    const std::string tuned_on = other.substr(other.rfind('_', gpus - 1) + 1, 1);
    EXPECT_EQ(std::to_string(recipe(other).model.tensor_model_parallel_size), tuned_on) << other;
  }
  EXPECT_EQ(other_recipe_names().size(), 6);
}

}  // namespace
}  // namespace trestle
