// RMSNorm. Called by the layers of all towers.
#pragma once

#include <ATen/core/Tensor.h>

namespace trestle {

/// weight * (x / sqrt(mean(x^2) + eps)), the mean in fp32 and the product in x's dtype, as
/// transformers' Ministral3RMSNorm and PixtralRMSNorm. x [..., D], weight [D]. By kernels of a card
/// x and one number a row are kept for the gradients.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace trestle
