// AdamW with fp32 master weights, and global-norm clipping. Called by the trainer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace trestle {

namespace cuda {
struct Kernels;
}

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  /// Applies to weights of two dimensions and more; biases and norms are not decayed, as in
  /// Megatron's groups.
  double weight_decay = 0.1;
  /// LoRA+ (Hayou et al. 2024): rate of an adapter's B and of DoRA's magnitudes over that of A, the
  /// groups of peft's create_loraplus_optimizer.
  double lora_plus_ratio = 1;
  /// What clip() lets the norm of gradients be at most; 0: any.
  double clip_grad = 0;
};

/// Whether lora_plus_ratio applies to the parameter of that name.
bool is_lora_plus(const std::string& name);

/// What a rank updates: a parameter, or a run of one's elements where ranks share the update out.
struct ParameterPart {
  std::string name;
  /// Has the gradient: the parameter itself, or its elements [first, first + n) in row-major order.
  at::Tensor tensor;
  int64_t first = 0;
  /// Of the parameter.
  std::vector<int64_t> sizes = {};
};

/// What a rank keeps of a parameter's state.
struct StateShard {
  /// As state() has it: "param." and the like before the parameter's name.
  std::string name;
  /// fp32, shared with the optimizer: of elements [first, first + n) of the parameter.
  at::Tensor tensor;
  int64_t first = 0;
  /// Of the parameter; of this rank's slice of it under tensor parallelism.
  std::vector<int64_t> sizes = {};

  bool is_whole() const { return tensor.sizes() == at::IntArrayRef(sizes); }
};

/// Decoupled weight decay (Loshchilov & Hutter 2019), bias-corrected, as torch.optim.AdamW.
/// Parameters below fp32 have an fp32 master that the update works on; the parameter is its
/// rounding.
class AdamW {
 public:
  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

  AdamW(const NamedTensors& parameters, const AdamWOptions& options);
  /// Of parts of parameters.
  AdamW(std::vector<ParameterPart> parts, const AdamWOptions& options);

  /// The 2-norm over all gradients, fp32 scalar where they are; 0 without any. By kernels of a card
  /// also, on the card, what step() then scales gradients by and whether the norm is a number.
  at::Tensor grad_norm();
  /// The next step() takes the gradients, whose norm is `norm` by grad_norm(), scaled so that it is
  /// at most clip_grad.
  void clip(double norm);
  /// One update with the gradients the parameters hold; those without a gradient are left alone. By
  /// kernels of a card one launch for all of them.
  void step(double learning_rate) { step(learning_rate, options_.weight_decay); }
  /// Where weight decay follows a schedule too.
  void step(double learning_rate, double weight_decay);
  void zero_grad();

  /// What is updated; of a part its parameter's name.
  const NamedTensors& parameters() const { return parameters_; }
  /// The same as parts of the model's.
  const std::vector<ParameterPart>& parts() const { return parts_; }
  /// Updates made so far.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps);
  /// "param." (fp32 master), "exp_avg." and "exp_avg_sq." before each parameter's name: Megatron's
  /// fully_reshardable state. Tensors are shared, not copied: a resumed run copies into them and
  /// calls refresh_parameters().
  NamedTensors state() const;
  /// The same with the place of each in its parameter.
  std::vector<StateShard> shards() const;
  /// Rounds masters into parameters.
  void refresh_parameters();

 private:
  struct Slot {
    at::Tensor parameter, master, exp_avg, exp_avg_sq, step;
    bool decayed, lora_plus;
  };
  class OnCard;
  void step_group(double learning_rate, double weight_decay, bool decayed, bool lora_plus);
  void step_by(const cuda::Kernels& kernels, double learning_rate, double weight_decay);
  const cuda::Kernels* kernels() const;

  AdamWOptions options_;
  NamedTensors parameters_;
  std::vector<ParameterPart> parts_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
  /// A cuda::GradientNorm where the gradients are; undefined where no kernel measured them.
  at::Tensor measured_;
  bool clips_ = false;
};

/// The 2-norm over all gradients, fp32 scalar where they are; 0 without any.
at::Tensor grad_norm(const AdamW::NamedTensors& parameters);

/// Scales the gradients, whose norm is `norm`, so that it is at most `max_norm` (no scaling when
/// max_norm <= 0). torch.nn.utils.clip_grads_with_norm_.
void clip_gradients(const AdamW::NamedTensors& parameters, double norm, double max_norm);

}  // namespace trestle
