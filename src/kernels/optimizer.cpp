#include "kernels/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "parallel/plan.h"

namespace trestle {

bool is_lora_plus(const std::string& name) {
  return is_adapter_tensor(name) &&
         (name.ends_with(".linear_out.weight") || name.ends_with(".weight_magnitude"));
}

AdamW::AdamW(NamedTensors parameters, const AdamWOptions& options)
    : options_(options), parameters_(std::move(parameters)) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters_) {
    Slot slot;
    slot.parameter = parameter;
    const at::Tensor detached = parameter.detach();
    slot.master = parameter.scalar_type() == at::kFloat ? detached : detached.to(at::kFloat);
    slot.exp_avg = at::zeros_like(slot.master);
    slot.exp_avg_sq = at::zeros_like(slot.master);
    slot.step = at::zeros({}, slot.master.options());
    slot.decayed = parameter.dim() >= 2;
    slot.lora_plus = is_lora_plus(name);
    slots_.push_back(std::move(slot));
  }
}

void AdamW::step(double learning_rate, double weight_decay) {
  const at::NoGradGuard no_grad;
  ++steps_;
  for (const bool decayed : {true, false}) {
    step_group(learning_rate, weight_decay, decayed, /*lora_plus=*/false);
    step_group(learning_rate * options_.lora_plus_ratio, weight_decay, decayed, /*lora_plus=*/true);
  }
  refresh_parameters();
}

void AdamW::step_group(double learning_rate, double weight_decay, bool decayed, bool lora_plus) {
  std::vector<at::Tensor> masters, gradients, exp_avgs, exp_avg_sqs, steps;
  for (Slot& slot : slots_) {
    if (slot.decayed != decayed || slot.lora_plus != lora_plus) continue;
    if (!slot.parameter.grad().defined()) continue;
    slot.step.fill_(steps_);
    masters.push_back(slot.master);
    gradients.push_back(slot.parameter.grad().to(at::kFloat));
    exp_avgs.push_back(slot.exp_avg);
    exp_avg_sqs.push_back(slot.exp_avg_sq);
    steps.push_back(slot.step);
  }
  if (masters.empty()) return;
  // The kernel counts from a step that is already that of this update.
  at::_fused_adamw_(masters, gradients, exp_avgs, exp_avg_sqs, /*max_exp_avg_sqs=*/{}, steps,
                    learning_rate, options_.beta1, options_.beta2, decayed ? weight_decay : 0.0,
                    options_.eps, /*amsgrad=*/false,
                    /*maximize=*/false);
}

void AdamW::zero_grad() {
  for (Slot& slot : slots_) slot.parameter.mutable_grad() = at::Tensor();
}

void AdamW::set_steps(int64_t steps) { steps_ = steps; }

AdamW::NamedTensors AdamW::state() const {
  NamedTensors state;
  for (size_t i = 0; i < slots_.size(); ++i) {
    state.emplace_back("param." + parameters_[i].first, slots_[i].master);
    state.emplace_back("exp_avg." + parameters_[i].first, slots_[i].exp_avg);
    state.emplace_back("exp_avg_sq." + parameters_[i].first, slots_[i].exp_avg_sq);
  }
  return state;
}

void AdamW::refresh_parameters() {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) {
    if (!slot.parameter.is_alias_of(slot.master)) slot.parameter.copy_(slot.master);
  }
}

at::Tensor grad_norm(const AdamW::NamedTensors& parameters) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> norms;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined())
      norms.push_back(at::linalg_vector_norm(parameter.grad(), 2, {}, false, at::kFloat));
  }
  return norms.empty() ? at::zeros({}) : at::linalg_vector_norm(at::stack(norms));
}

void clip_gradients(const AdamW::NamedTensors& parameters, double norm, double max_norm) {
  const at::NoGradGuard no_grad;
  const double scale = max_norm / (norm + 1e-6);
  if (max_norm <= 0 || scale >= 1) return;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined()) parameter.grad().mul_(scale);
  }
}

}  // namespace trestle
