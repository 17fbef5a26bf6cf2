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
  for (const auto& [name, tensor] : optimizer.state()) {
    held.push_back(plan.held(std::string(kOptimizerState) + name, tensor));
  }
  return held;
}

}  // namespace trestle
