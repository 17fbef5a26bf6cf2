// RMSNorm and SwiGLU, which all towers share.
#pragma once

#include <torch/nn/module.h>

#include "model/linear.h"

namespace trestle {

/// weight * (x / sqrt(mean(x^2) + eps)), the mean in fp32 and the product in x's dtype, as
/// transformers' Ministral3RMSNorm and PixtralRMSNorm. x [..., D], weight [D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

class RmsNorm : public torch::nn::Module {
 public:
  RmsNorm(int64_t size, double eps, const Build& build);
  at::Tensor forward(const at::Tensor& x) const { return rms_norm(x, weight, eps_); }

  at::Tensor weight;

 private:
  double eps_;
};

/// silu(gate) * up.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace trestle
