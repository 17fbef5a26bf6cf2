#include "train/recipes.h"

#include "base/error.h"

namespace trestle {

TrainConfig ministral3_sft_config() { return {}; }

TrainConfig ministral3_peft_config() {
  TrainConfig config = ministral3_sft_config();
  config.peft.scheme = "lora";
  config.optimizer.lr = 1e-4;
  config.optimizer.min_lr = 1e-5;
  return config;
}

TrainConfig demo_config() {
  TrainConfig config = ministral3_peft_config();
  config.model.params_dtype = "float32";
  config.model.seq_length = 1024;
  config.train.train_iters = 120;
  config.train.global_batch_size = 16;
  config.train.micro_batch_size = 16;
  config.optimizer.lr = 5e-3;
  config.optimizer.min_lr = 1e-4;
  config.optimizer.weight_decay = 0;
  config.peft.dim = 16;
  config.checkpoint.save_interval = 60;
  return config;
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> table = {
      {"ministral3_3b_sft_config", "full fine-tuning", ministral3_sft_config},
      {"ministral3_3b_peft_config", "LoRA", ministral3_peft_config},
      {"ministral3_8b_sft_config", "full fine-tuning", ministral3_sft_config},
      {"ministral3_8b_peft_config", "LoRA", ministral3_peft_config},
      {"ministral3_14b_sft_config", "full fine-tuning", ministral3_sft_config},
      {"ministral3_14b_peft_config", "LoRA", ministral3_peft_config},
      {"demo_config", "LoRA on the embedded demo model", demo_config},
  };
  return table;
}

TrainConfig recipe(const std::string& name) {
  std::vector<std::string> names;
  for (const Recipe& each : recipes()) {
    if (each.name == name) return each.make();
    names.push_back(each.name);
  }
  user_error("unknown recipe {}; did you mean {}?", name, nearest(name, names));
}

}  // namespace trestle
