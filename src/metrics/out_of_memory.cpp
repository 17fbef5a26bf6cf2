#include "metrics/out_of_memory.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/bytes.h"
#include "bridge/load_quantized.h"
#include "kernels/device.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

std::string in_gb(int64_t bytes) {
  return fmt::format("{:.2f} GB", gigabytes(static_cast<uint64_t>(std::max<int64_t>(bytes, 0))));
}

// Those that are not yet at what takes least: of weights and optimizer, then of activations.
std::vector<std::string> keys_of_weights(const TrainConfig& config) {
  std::vector<std::string> keys;
  if (!config.trains_adapters()) {
    keys.emplace_back("peft.scheme=lora");
  } else if (config.peft.base_bits != "4" && !config.peft.starts_with_pissa()) {
    keys.push_back(fmt::format("peft.base_bits=4 (now {})", config.peft.base_bits));
  }
  if (config.dtype() == at::kFloat) {
    keys.emplace_back("model.params_dtype=bfloat16 (now float32)");
  }
  return keys;
}

std::vector<std::string> keys_of_activations(const TrainConfig& config) {
  std::vector<std::string> keys;
  if (config.model.recompute_granularity != "full") {
    keys.push_back(fmt::format("model.recompute_granularity=full (now {})",
                               config.model.recompute_granularity));
  }
  if (config.train.micro_batch_size > 1) {
    keys.push_back(fmt::format("a train.micro_batch_size below {}", config.train.micro_batch_size));
  }
  keys.push_back(fmt::format("a model.seq_length below {}", config.model.seq_length));
  return keys;
}

std::string held_line(std::string_view asked, const MemoryUse& use) {
  return fmt::format("out of memory: {}; weights hold {}, optimizer {}, gradients {}", asked,
                     in_gb(use.weights), in_gb(use.optimizer), in_gb(use.gradients));
}

}  // namespace

MemoryUse memory_use(const Ministral3& model,
                     const std::vector<std::pair<std::string, at::Tensor>>& state) {
  MemoryUse use;
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.defined() && !tensor.is_meta() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  std::set<const void*> of_weights;
  for (const at::Tensor& parameter : model.parameters()) {
    use.weights += bytes(parameter);
    use.gradients += bytes(parameter.grad());
    of_weights.insert(parameter.const_data_ptr());
  }
  if (const BaseShards* base = model.language_model().base()) use.weights += base->bytes();
  for (const auto& [name, linear] : projections(model)) {
    for (const auto& [part, tensor] : held_tensors(*linear)) use.weights += bytes(tensor);
  }
  for (const auto& [name, tensor] : state) {
    if (!of_weights.contains(tensor.const_data_ptr())) use.optimizer += bytes(tensor);
  }
  if (const auto card = card_memory(model.build().device)) use.peak = card->peak;
  return use;
}

std::string opening_out_of_memory_line(std::string_view asked, const MemoryUse& use,
                                       const TrainConfig& config) {
  const auto keys = keys_of_weights(config);
  const std::string less =
      keys.empty() ? "a smaller model" : fmt::format("{}", fmt::join(keys, ", "));
  return fmt::format("{}; less is taken by {}", held_line(asked, use), less);
}

std::string out_of_memory_line(std::string_view asked, const MemoryUse& use,
                               const TrainConfig& config) {
  std::string line = held_line(asked, use);
  if (use.peak) {
    line += fmt::format(", activations up to {}",
                        in_gb(*use.peak - use.weights - use.optimizer - use.gradients));
  }
  std::vector<std::string> keys = keys_of_activations(config);
  for (std::string& key : keys_of_weights(config)) keys.push_back(std::move(key));
  return line + fmt::format("; less is taken by {}", fmt::join(keys, ", "));
}

}  // namespace trestle
