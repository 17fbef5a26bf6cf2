// Products of bf16 matrices by fp32's, for processors without instructions for bf16: tiles of the
// weight are widened into buffers of a thread, so that memory stays bf16's, sums are in fp32 and
// rounded once. Called by matrix_product; none gives gradients.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// a b^T + bias: bf16 [M, K], [N, K], [N] or undefined -> [M, N].
at::Tensor widened_times_transposed(const at::Tensor& a_MK, const at::Tensor& b_NK,
                                    const at::Tensor& bias_N);

/// a b: bf16 [M, N], [N, K] -> [M, K].
at::Tensor widened_times(const at::Tensor& a_MN, const at::Tensor& b_NK);

/// a^T b: bf16 [M, N], [M, K] -> `out`, bf16 [N, K].
void widened_transposed_times_out(at::Tensor& out_NK, const at::Tensor& a_MN,
                                  const at::Tensor& b_MK);

}  // namespace trestle
