// The 2-norm of all weights, as Megatron's logger.log_params_norm has it. Called by the trainer.
#pragma once

#include "parallel/group.h"

namespace trestle {

class AdamW;
class Ministral3;
struct Grid;

/// What trains is taken from the optimizer's float32 masters, what is frozen is read once: a step
/// then costs a pass over what trains.
class ParamsNorm {
 public:
  /// All must live as long. `shared_out`: each rank has its own part of the optimizer's state. Made
  /// by all ranks of the model alike.
  ParamsNorm(const Ministral3& model, const AdamW& optimizer, const Grid& grid, bool shared_out);
  /// Of the whole model, whose ranks call it alike.
  double now() const;

 private:
  const AdamW& optimizer_;
  const Grid& grid_;
  bool shared_out_;
  double frozen_squares_ = 0;
};

}  // namespace trestle
