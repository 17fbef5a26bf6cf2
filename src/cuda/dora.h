// DoRA's row norms on a card: what linear/adapter.h's Adapter::row_norms and gain make.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// Of w + scale B A, a row at a time and without ever making it:
/// ||w + s b A||^2 = ||w||^2 + (2 w A^T + s b A A^T) . s b.
/// products = W A^T, fp32 [rows, rank]; gram = A A^T, fp32 [rank, rank]; b [rows, rank] and
/// magnitude [rows] of `type`; squares = ||w||^2, fp64 [rows]. norms, fp32 [rows], has 1 for a norm
/// of 0; gains = magnitude / norms, fp32 [rows], may be null, and magnitude with it.
struct DoraNorms {
  Type type = Type::kFloat;
  int64_t rows = 0, rank = 0;
  double scale = 1;
  const float *products = nullptr, *gram = nullptr;
  const void *b = nullptr, *magnitude = nullptr;
  const double *squares = nullptr;
  float *norms = nullptr, *gains = nullptr;
};
int dora_norms(const DoraNorms &args, Stream stream);

}  // namespace trestle::cuda
