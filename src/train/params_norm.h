// The 2-norm of all weights, as Megatron's logger.log_params_norm has it. Called by the trainer.
#pragma once

namespace trestle {

class AdamW;
class Ministral3;

/// What trains is taken from the optimizer's float32 masters, what is frozen is read once: a step
/// then costs a pass over what trains.
class ParamsNorm {
 public:
  /// Both must live as long.
  ParamsNorm(const Ministral3& model, const AdamW& optimizer);
  double now() const;

 private:
  const AdamW& optimizer_;
  double frozen_squares_ = 0;
};

}  // namespace trestle
