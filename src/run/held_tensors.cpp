#include "run/held_tensors.h"

#include "megatron/names.h"
#include "model/ministral3.h"
#include "parallel/plan.h"

namespace trestle {

std::vector<HeldTensor> held_weights(const Ministral3& model, bool adapters,
                                     const ShardPlan& plan) {
  std::vector<HeldTensor> held;
  for (const auto& entry : model.named_parameters()) {
    if (adapters && !is_adapter_tensor(entry.key())) continue;
    held.push_back(plan.held(entry.key(), entry.value().detach()));
  }
  return held;
}

std::vector<HeldTensor> held_state(const AdamW& optimizer, const ShardPlan& plan) {
  std::vector<HeldTensor> held;
  for (const StateShard& shard : optimizer.shards()) {
    const std::string name = std::string(kOptimizerState) + shard.name;
    if (!plan.shares_state()) {
      held.push_back(plan.held(name, shard.tensor));
      continue;
    }
    held.push_back(plan.held_part(name, shard.sizes, shard.first, shard.tensor));
    held.back().same_over_tensor = false;  // they are among those that share
  }
  return held;
}

}  // namespace trestle
