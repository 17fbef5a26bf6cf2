#include "recipes/recipes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/suggestion.h"

namespace trestle {

namespace {

// GPUs that share a layer in Megatron Bridge's table for Ministral 3, of 8.
struct TensorParallel {
  int64_t sft, peft;
};
constexpr TensorParallel k3B{1, 1}, k8B{2, 1}, k14B{4, 2};

// Of megatron-bridge 0.6, by the GPUs that it was tuned on.
constexpr std::array<std::pair<const char*, const char*>, 6> kOtherNames = {
    {{"ministral3_3b_sft_1gpu_h100_bf16_config", "ministral3_3b_sft_config"},
     {"ministral3_3b_peft_1gpu_h100_bf16_config", "ministral3_3b_peft_config"},
     {"ministral3_8b_sft_2gpu_h100_bf16_config", "ministral3_8b_sft_config"},
     {"ministral3_8b_peft_1gpu_h100_bf16_config", "ministral3_8b_peft_config"},
     {"ministral3_14b_sft_4gpu_h100_bf16_config", "ministral3_14b_sft_config"},
     {"ministral3_14b_peft_2gpu_h100_bf16_config", "ministral3_14b_peft_config"}}};

TrainConfig finetune_config(const FinetuneArguments& arguments, const std::string& usual_peft,
                            const TensorParallel& parallel) {
  TrainConfig config;
  const char* root = std::getenv("SAVE_DIR");
  if (root != nullptr && *root != '\0' && !arguments.name.empty()) {
    config.checkpoint.save = (std::filesystem::path(root) / arguments.name).string();
  }
  config.checkpoint.pretrained_checkpoint = arguments.pretrained_checkpoint;
  if (arguments.dataset_type != "hf") config.dataset.maker_name = arguments.dataset_type;
  const std::string peft = arguments.peft.value_or(usual_peft);
  config.model.tensor_model_parallel_size = peft == "none" ? parallel.sft : parallel.peft;
  if (peft != "none") {
    config.peft.scheme = peft;
    config.optimizer.lr = 1e-4;
    config.optimizer.min_lr = 1e-5;
  }
  config.train.train_iters = arguments.train_iters.value_or(config.train.train_iters);
  config.train.global_batch_size =
      arguments.global_batch_size.value_or(config.train.global_batch_size);
  config.model.freeze_language_model = arguments.freeze_language_model;
  config.model.freeze_vision_model = arguments.freeze_vision_model;
  config.model.freeze_vision_projection = arguments.freeze_vision_projection;
  return config;
}

template <const TensorParallel& parallel>
TrainConfig peft_config(const FinetuneArguments& arguments) {
  return finetune_config(arguments, "lora", parallel);
}

}  // namespace

TrainConfig ministral3_3b_finetune_config(const FinetuneArguments& arguments) {
  return finetune_config(arguments, "none", k3B);
}

TrainConfig ministral3_8b_finetune_config(const FinetuneArguments& arguments) {
  return finetune_config(arguments, "none", k8B);
}

TrainConfig ministral3_14b_finetune_config(const FinetuneArguments& arguments) {
  return finetune_config(arguments, "none", k14B);
}

TrainConfig demo_config(const FinetuneArguments& arguments) {
  TrainConfig config = peft_config<k3B>(arguments);
  config.model.params_dtype = "float32";
  config.model.seq_length = 1024;
  config.train.train_iters = arguments.train_iters.value_or(120);
  config.train.global_batch_size = arguments.global_batch_size.value_or(16);
  config.train.micro_batch_size = 16;
  config.optimizer.lr = 5e-3;
  config.optimizer.min_lr = 1e-4;
  config.optimizer.weight_decay = 0;
  config.peft.dim = 16;
  config.checkpoint.save_interval = 60;
  config.validation.eval_interval = 0;  // the demo evaluates before and after
  return config;
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> table = {
      {"ministral3_3b_finetune_config", "full, or --peft-scheme", ministral3_3b_finetune_config},
      {"ministral3_3b_sft_config", "full fine-tuning", ministral3_3b_finetune_config},
      {"ministral3_3b_peft_config", "LoRA", peft_config<k3B>},
      {"ministral3_8b_finetune_config", "full, or --peft-scheme", ministral3_8b_finetune_config},
      {"ministral3_8b_sft_config", "full fine-tuning", ministral3_8b_finetune_config},
      {"ministral3_8b_peft_config", "LoRA", peft_config<k8B>},
      {"ministral3_14b_finetune_config", "full, or --peft-scheme", ministral3_14b_finetune_config},
      {"ministral3_14b_sft_config", "full fine-tuning", ministral3_14b_finetune_config},
      {"ministral3_14b_peft_config", "LoRA", peft_config<k14B>},
      {"demo_config", "LoRA on the embedded demo model", demo_config},
  };
  return table;
}

std::vector<std::string> other_recipe_names() {
  std::vector<std::string> names;
  for (const auto& [other, name] : kOtherNames) names.emplace_back(other);
  return names;
}

TrainConfig recipe(const std::string& name, const FinetuneArguments& arguments) {
  std::vector<std::string> names;
  const auto other =
      std::ranges::find_if(kOtherNames, [&](const auto& each) { return each.first == name; });
  const std::string known = other == kOtherNames.end() ? name : other->second;
  for (const Recipe& each : recipes()) {
    if (each.name == known) return each.make(arguments);
    names.push_back(each.name);
  }
  const auto meant = begun_or_nearest(name, names);
  user_error("unknown recipe {}; {}", name,
             meant ? fmt::format("did you mean {}?", *meant)
                   : "trestle recipes lists those that there are");
}

}  // namespace trestle
