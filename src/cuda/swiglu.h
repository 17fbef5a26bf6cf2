// SwiGLU on a card: y = silu(gate) * up, as kernels/swiglu.h has it, and its gradients.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// gate, up [rows, columns], whose rows lie `stride` elements apart (2 * columns where they are the
/// halves of a fused projection's output) -> y [rows, columns], all of one type.
struct SwigluForward {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0, stride = 0;
  const void *gate = nullptr, *up = nullptr;
  void* y = nullptr;
};
int swiglu_forward(const SwigluForward& args, Stream stream);

/// dy [rows, columns] -> dgate and dup, `stride` apart like gate and up, which they may be.
struct SwigluBackward {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0, stride = 0;
  const void *dy = nullptr, *gate = nullptr, *up = nullptr;
  void *dgate = nullptr, *dup = nullptr;
};
int swiglu_backward(const SwigluBackward& args, Stream stream);

}  // namespace trestle::cuda
