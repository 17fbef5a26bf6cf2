#include "model/layers.h"

#include <ATen/ATen.h>

namespace trestle {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * normed.to(x.scalar_type());
}

RmsNorm::RmsNorm(int64_t size, double eps, const Build& build) : eps_(eps) {
  weight = register_parameter("weight", build.empty({size}));
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

}  // namespace trestle
