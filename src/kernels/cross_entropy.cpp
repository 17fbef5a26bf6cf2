#include "kernels/cross_entropy.h"

#include <ATen/ATen.h>

#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

at::Tensor by_operators(at::Tensor values, const at::Tensor& targets_N1, SoftmaxRows rows,
                        bool gradient) {
  const at::ScalarType dtype = values.scalar_type();
  values = values.to(at::kFloat);
  at::amax_out(rows.largest, values, {1}, /*keepdim=*/true);
  values.sub_(rows.largest);
  const at::Tensor picked = values.gather(1, targets_N1);
  values.exp_();
  at::sum_out(rows.sum, values, at::IntArrayRef{1}, /*keepdim=*/true);
  rows.losses.copy_(rows.sum.log() - picked);
  if (!gradient) return {};
  values.div_(rows.sum).scatter_add_(1, targets_N1, at::full_like(picked, -1));
  return values.to(dtype);
}

}  // namespace

SoftmaxRows SoftmaxRows::of(int64_t rows, c10::Device device) {
  const auto made = [&] {
    return at::empty({rows, 1}, at::TensorOptions().dtype(at::kFloat).device(device));
  };
  return {made(), made(), made()};
}

SoftmaxRows SoftmaxRows::narrow(int64_t first, int64_t count) const {
  return {losses.narrow(0, first, count), largest.narrow(0, first, count),
          sum.narrow(0, first, count)};
}

at::Tensor cross_entropy(at::Tensor logits_NV, const at::Tensor& targets_N, const SoftmaxRows& rows,
                         bool gradient) {
  const std::array<int64_t, 1> shape{logits_NV.size(0)};
  TORCH_CHECK(targets_N.sizes() == shape && targets_N.scalar_type() == at::kLong &&
                  rows.losses.numel() == shape[0],
              "targets ", targets_N.sizes(), " are of logits ", logits_NV.sizes());
  const cuda::Kernels* kernels = kernels_for({logits_NV});
  if (kernels == nullptr) {
    return by_operators(std::move(logits_NV), targets_N.unsqueeze(1), rows, gradient);
  }
  logits_NV = beside_each_other(logits_NV);
  const at::Tensor targets = targets_N.contiguous();
  launch(*kernels, &cuda::Kernels::cross_entropy, "cross_entropy", logits_NV,
         cuda::CrossEntropy{.type = kernel_type(logits_NV.scalar_type()),
                            .rows = logits_NV.size(0),
                            .columns = logits_NV.size(1),
                            .logits = logits_NV.mutable_data_ptr(),
                            .targets = targets.const_data_ptr<int64_t>(),
                            .losses = rows.losses.mutable_data_ptr<float>(),
                            .largest = rows.largest.mutable_data_ptr<float>(),
                            .sums = rows.sum.mutable_data_ptr<float>(),
                            .gradient = gradient});
  return gradient ? logits_NV : at::Tensor();
}

}  // namespace trestle
