// The norm over all gradients on a card, and what clipping multiplies them by, without a word to
// the host: what kernels/optimizer.h's grad_norm and clip_gradients make.
#pragma once

#include "cuda/parameter_table.h"

namespace trestle::cuda {

/// On the device. `factor` is min(1, max_norm / (norm + 1e-6)), or 1 where max_norm <= 0. `finite`
/// is 1 where the norm and the loss are finite numbers, else 0.
struct GradientNorm {
  float norm = 0, factor = 0;
  int32_t finite = 0;
};

/// Over the gradients of a table, in fp32: the norm is infinite where one is over 1e19. `partial`
/// is fp64 [table.chunks]; `loss`, a scalar on the device, may be null.
struct GradientNormArgs {
  ParameterTable table = {};
  double max_norm = 0;
  const float* loss = nullptr;
  double* partial = nullptr;
  GradientNorm* result = nullptr;
};
int gradient_norm(const GradientNormArgs& args, Stream stream);

}  // namespace trestle::cuda
