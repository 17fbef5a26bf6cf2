// Matrix products of two dtypes alike, each with the gradients that training asks of it. Every
// product of the models goes through here: libtorch's own, but where the processor has no
// instructions for bf16 the same in fp32, a tile of the weight at a time (Bf16Path::kWidened),
// with sums in fp32 that are rounded to bf16 once.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// a b^T (+ bias [N] in every row): [M, K], [N, K] -> [M, N]. Gives gradients to all three.
at::Tensor times_transposed(const at::Tensor& a_MK, const at::Tensor& b_NK,
                            const at::Tensor& bias_N = {});

/// a b: [M, N], [N, K] -> [M, K]. No gradients.
at::Tensor times(const at::Tensor& a_MN, const at::Tensor& b_NK);

/// y += alpha a b^T: [M, K], [N, K] into [M, N], whose rows may lie apart. No gradients.
void add_times_transposed(at::Tensor& y_MN, const at::Tensor& a_MK, const at::Tensor& b_NK,
                          double alpha);

/// y += a b: [M, N], [N, K] into [M, K], whose rows may lie apart. No gradients.
void add_times(at::Tensor& y_MK, const at::Tensor& a_MN, const at::Tensor& b_NK);

/// a^T b: [M, N], [M, K] -> [N, K], into `out`, whose rows may lie apart. No gradients.
void transposed_times_out(at::Tensor& out_NK, const at::Tensor& a_MN, const at::Tensor& b_MK);

}  // namespace trestle
