#include "kernels/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda_kernels.h"
#include "parallel/plan.h"

namespace trestle {

bool is_lora_plus(const std::string& name) {
  return is_adapter_tensor(name) &&
         (name.ends_with(".linear_out.weight") || name.ends_with(".weight_magnitude"));
}

namespace {

std::vector<ParameterPart> whole_parts(const AdamW::NamedTensors& parameters) {
  std::vector<ParameterPart> parts;
  for (const auto& [name, tensor] : parameters) {
    parts.push_back({.name = name, .tensor = tensor, .first = 0, .sizes = tensor.sizes().vec()});
  }
  return parts;
}

}  // namespace

AdamW::AdamW(const NamedTensors& parameters, const AdamWOptions& options)
    : AdamW(whole_parts(parameters), options) {}

AdamW::AdamW(std::vector<ParameterPart> parts, const AdamWOptions& options)
    : options_(options), parts_(std::move(parts)) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter, first, sizes] : parts_) {
    parameters_.emplace_back(name, parameter);
    Slot slot;
    slot.parameter = parameter;
    const at::Tensor detached = parameter.detach();
    slot.master = parameter.scalar_type() == at::kFloat ? detached : detached.to(at::kFloat);
    slot.exp_avg = at::zeros_like(slot.master);
    slot.exp_avg_sq = at::zeros_like(slot.master);
    slot.step = at::zeros({}, slot.master.options());
    slot.decayed = sizes.size() >= 2;
    slot.lora_plus = is_lora_plus(name);
    slots_.push_back(std::move(slot));
  }
}

// All parameters as kernels take them. The table goes to the card with each use, as gradients are
// other tensors in every step; to the end of the scope these stay.
class AdamW::OnCard {
 public:
  explicit OnCard(const std::vector<Slot>& slots) {
    const c10::Device device = slots.front().master.device();
    const auto bytes = static_cast<int64_t>(slots.size() * sizeof(cuda::Parameter));
    const at::Tensor host =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(device.is_cuda()));
    auto* parameters = static_cast<cuda::Parameter*>(host.mutable_data_ptr());
    for (const Slot& slot : slots) {
      *parameters++ = parameter_of(slot);
      chunks_ += cuda::chunks_of(slot.master.numel());
    }
    rows_ = host.to(device, /*non_blocking=*/true);
  }
  cuda::ParameterTable table() const {
    return {static_cast<const cuda::Parameter*>(rows_.const_data_ptr()),
            rows_.numel() / static_cast<int64_t>(sizeof(cuda::Parameter)), chunks_};
  }

  /// Index of AdamW::groups in the kernels' arguments.
  static int32_t group_of(bool decayed, bool lora_plus) {
    return (decayed ? 1 : 0) + (lora_plus ? 2 : 0);
  }

 private:
  cuda::Parameter parameter_of(const Slot& slot) {
    const at::Tensor& gradient = gradients_.emplace_back(
        slot.parameter.grad().defined() ? slot.parameter.grad().contiguous() : at::Tensor());
    const bool has = gradient.defined();
    const bool is_master = slot.parameter.is_alias_of(slot.master);
    return {.first_chunk = chunks_,
            .count = slot.master.numel(),
            .master = slot.master.mutable_data_ptr<float>(),
            .exp_avg = slot.exp_avg.mutable_data_ptr<float>(),
            .exp_avg_sq = slot.exp_avg_sq.mutable_data_ptr<float>(),
            .weight = is_master ? nullptr : slot.parameter.mutable_data_ptr(),
            .gradient = has ? gradient.const_data_ptr() : nullptr,
            .gradient_type = has ? kernel_type(gradient.scalar_type()) : cuda::Type::kFloat,
            .group = group_of(slot.decayed, slot.lora_plus)};
  }

  std::vector<at::Tensor> gradients_;
  at::Tensor rows_;
  int64_t chunks_ = 0;
};

// A parameter's rows lie beside each other, as masters are made and gradients follow.
const cuda::Kernels* AdamW::kernels() const {
  const bool taken = !slots_.empty() && std::ranges::all_of(slots_, [&](const Slot& slot) {
    return slot.parameter.is_contiguous() && slot.master.is_contiguous() &&
           kernels_for({slot.parameter}) != nullptr &&
           slot.parameter.device() == slots_.front().parameter.device();
  });
  return taken ? kernels_for(slots_.front().parameter.device()) : nullptr;
}

at::Tensor AdamW::grad_norm() {
  const cuda::Kernels* by = kernels();
  clips_ = false;
  measured_ = at::Tensor();
  if (by == nullptr) return trestle::grad_norm(parameters_);
  const OnCard all(slots_);
  const at::TensorOptions options = slots_.front().master.options();
  const at::Tensor partial = at::empty({all.table().chunks}, options.dtype(at::kDouble));
  static_assert(sizeof(cuda::GradientNorm) == 3 * sizeof(float));
  measured_ = at::empty({3}, options);
  launch(*by, &cuda::Kernels::gradient_norm, "gradient_norm", measured_,
         cuda::GradientNormArgs{
             .table = all.table(),
             .max_norm = options_.clip_grad,
             .partial = partial.mutable_data_ptr<double>(),
             .result = static_cast<cuda::GradientNorm*>(measured_.mutable_data_ptr())});
  return measured_.select(0, 0);
}

void AdamW::clip(double norm) {
  clips_ = measured_.defined();
  if (!clips_) clip_gradients(parameters_, norm, options_.clip_grad);
}

void AdamW::step_by(const cuda::Kernels& kernels, double learning_rate, double weight_decay) {
  const OnCard all(slots_);
  cuda::AdamW args{.table = all.table(),
                   .beta1 = options_.beta1,
                   .beta2 = options_.beta2,
                   .eps = options_.eps,
                   .step = steps_};
  for (const bool decayed : {false, true}) {
    for (const bool plus : {false, true}) {
      args.groups[OnCard::group_of(decayed, plus)] = {
          learning_rate * (plus ? options_.lora_plus_ratio : 1), decayed ? weight_decay : 0};
    }
  }
  if (clips_) {
    args.norm = static_cast<const cuda::GradientNorm*>(measured_.const_data_ptr());
  }
  launch(kernels, &cuda::Kernels::adamw, "adamw", slots_.front().master, args);
  clips_ = false;
  // As an operator of libtorch would: what is derived from weights is made anew.
  for (const Slot& slot : slots_) {
    if (slot.parameter.grad().defined()) slot.parameter.unsafeGetTensorImpl()->bump_version();
  }
}

void AdamW::step(double learning_rate, double weight_decay) {
  const at::NoGradGuard no_grad;
  ++steps_;
  if (const cuda::Kernels* by = kernels()) return step_by(*by, learning_rate, weight_decay);
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
  measured_ = at::Tensor();
  clips_ = false;
  for (Slot& slot : slots_) slot.parameter.mutable_grad() = at::Tensor();
}

void AdamW::set_steps(int64_t steps) { steps_ = steps; }

std::vector<StateShard> AdamW::shards() const {
  std::vector<StateShard> shards;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const auto add = [&](const char* what, const at::Tensor& tensor) {
      shards.push_back({.name = what + parts_[i].name,
                        .tensor = tensor,
                        .first = parts_[i].first,
                        .sizes = parts_[i].sizes});
    };
    add("param.", slots_[i].master);
    add("exp_avg.", slots_[i].exp_avg);
    add("exp_avg_sq.", slots_[i].exp_avg_sq);
  }
  return shards;
}

AdamW::NamedTensors AdamW::state() const {
  NamedTensors state;
  for (StateShard& shard : shards()) {
    state.emplace_back(std::move(shard.name), std::move(shard.tensor));
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
