// One step of AdamW over all parameters on a card: what kernels/optimizer.h's AdamW::step makes.
#pragma once

#include "cuda/gradient_norm.h"
#include "cuda/parameter_table.h"

namespace trestle::cuda {

constexpr int kMostGroups = 4;

struct AdamWGroup {
  double learning_rate = 0, weight_decay = 0;
};

/// Decoupled weight decay, bias-corrected; `step` counts from 1. Gradients are multiplied by
/// norm->factor in fp32, and where norm->finite is 0 everything is left as it was (`norm`, on the
/// device, may be null: a factor of 1).
struct AdamW {
  ParameterTable table = {};
  AdamWGroup groups[kMostGroups] = {};
  double beta1 = 0, beta2 = 0, eps = 0;
  int64_t step = 0;
  const GradientNorm* norm = nullptr;
};
int adamw(const AdamW& args, Stream stream);

}  // namespace trestle::cuda
