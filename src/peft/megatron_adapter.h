// Adapters in a Megatron checkpoint, as Megatron Bridge's LoRA, CanonicalLoRA and DoRA and our own
// training runs save them. Called by load_adapter; MegatronWriter writes them, with
// peft_run_config() in run_config.yaml.
#pragma once

#include "base/json.h"
#include "megatron/checkpoint.h"
#include "peft/lora.h"

namespace trestle {

class Ministral3;

/// Tensors bear the names of named_parameters(): MODULE.adapter.linear_in.weight [dim, in],
/// .linear_out.weight [out, dim] and DoRA's .weight_magnitude [out], or MODULE.adapter.PART.* for
/// the parts of a fused projection one by one (CanonicalLoRA: adapter_q for q_proj). In the vision
/// tower and the projector, whose modules are plain torch ones to it, Megatron Bridge leaves
/// `.adapter` out (LinearAdapter); both are read. PiSSA of our own runs becomes a LoRA of the base
/// as it is on disk; dim, alpha and
/// dropout are of run_config.yaml's peft section. Throws UserError when the checkpoint holds a
/// model instead, another method than LoRA and DoRA, or what does not fit this model: its tensors,
/// or what it says of the model that it was trained on.
void load_megatron_adapter(Ministral3& model, const MegatronCheckpoint& checkpoint);

/// Whether Megatron Bridge's classes can express such adapters; then run_config.yaml names theirs.
bool is_bridges_form(const LoraConfig& config);

/// The name that the bridge gives to what bears `name` here: outside the language model without
/// `.adapter`. It may stand behind another part, as in optimizer.state.exp_avg.NAME.
std::string bridge_adapter_name(const std::string& name);

/// The `peft` section that such a checkpoint's run_config.yaml must hold. Megatron Bridge reads it
/// where every projection is adapted whole.
Json peft_run_config(const LoraConfig& config);

}  // namespace trestle
