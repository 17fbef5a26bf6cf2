// RMSNorm on a card: y = w * round(x / rms(x)), as kernels/rms_norm.h has it, and its gradients.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

// Rows that no kernel takes (cudaErrorInvalidValue): forward those of over 32,768 columns in bf16,
// 16,384 in fp32, backward of over 12,288 and 6,144. Where a row or a pointer is no multiple of 16
// bytes these are 16,384 forward and 6,144 backward.

/// Whether both ways take rows of so many columns, at pointers that are multiples of 16 bytes.
constexpr bool takes_rows(Type type, int64_t columns) {
  constexpr int64_t kMost = 6144, kMostInVectors = 12288, kVector = 8;
  const bool in_vectors = type == Type::kBFloat16 && columns % kVector == 0;
  return columns <= (in_vectors ? kMostInVectors : kMost);
}

/// x [rows, columns], weight [columns] -> y [rows, columns], all of one type, and 1 / rms of each
/// row for the gradients, fp32 [rows] (null: not asked for). rms = sqrt(mean of squares + eps).
struct RmsNormForward {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0;
  double eps = 0;
  const void *x = nullptr, *weight = nullptr;
  void* y = nullptr;
  float* inverse_rms = nullptr;
};
int rms_norm_forward(const RmsNormForward& args, Stream stream);

/// up [rows, columns] -> dx like x (`dx` may be `up`) and, where dweight is not null, dweight
/// [columns], summed in fp32 by way of `partial`, fp32 [rms_norm_partials(rows), columns].
struct RmsNormBackward {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0;
  const void *up = nullptr, *x = nullptr, *weight = nullptr;
  const float* inverse_rms = nullptr;
  void *dx = nullptr, *dweight = nullptr;
  float* partial = nullptr;
};
int rms_norm_backward(const RmsNormBackward& args, Stream stream);

/// Rows whose products are summed in registers before they are summed in memory: four blocks for
/// each processor of an H100, and the same on any card, so that sums are too.
constexpr int64_t rms_norm_partials(int64_t rows) {
  constexpr int64_t kMost = 528;
  return rows < kMost ? rows : kMost;
}

}  // namespace trestle::cuda
