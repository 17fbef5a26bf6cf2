// SwiGLU. Called by the feed-forward layers of both towers.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// silu(gate) * up, [..., F] each.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// The same of a fused projection's output [..., 2F], gate before up. By kernels of a card that is
/// all that is kept for the gradient, which is made in one piece.
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace trestle
