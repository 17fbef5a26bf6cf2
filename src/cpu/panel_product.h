// The innermost loop of widened products: a few weights times a panel of activations, all sums in
// registers. Called by widened_product.
#pragma once

#include <cstdint>

namespace trestle {

/// How this processor multiplies. Activations are packed in panels [depth, rows], rows beside each
/// other; a panel may have fewer, and sums of the others mean nothing. A sliver is as many weights
/// as have their sums in registers.
struct PanelKernel {
  int64_t rows;     // of activations in a panel
  int64_t weights;  // in a sliver
  /// sums[w, r] = (add ? sums[w, r] : 0) + sum over k < depth, in this order, of
  /// sliver[w * weight_stride + k * depth_stride] * panel[k, r]: sums [weights, rows], contiguous.
  void (*multiply)(const float* panel, int64_t depth, const float* sliver, int64_t weight_stride,
                   int64_t depth_stride, float* sums, bool add);
};

/// For so many rows, by a capability of libtorch's, "AVX512", "AVX2" or another; null where the
/// processor lacks it.
const PanelKernel* panel_kernel(const char* capability, int64_t rows);

}  // namespace trestle
