// RMSNorm with its weight, which all towers share.
#pragma once

#include <torch/nn/module.h>

#include "kernels/rms_norm.h"
#include "linear/linear.h"

namespace trestle {

class RmsNorm : public torch::nn::Module {
 public:
  RmsNorm(int64_t size, double eps, const Build& build);
  at::Tensor forward(const at::Tensor& x) const { return rms_norm(x, weight, eps_); }

  at::Tensor weight;

 private:
  double eps_;
};

}  // namespace trestle
