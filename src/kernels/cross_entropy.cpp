#include "kernels/cross_entropy.h"

#include <ATen/ATen.h>

#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

// `vocabulary`'s ranks have these logits' neighbours; targets count from the first that is here.
at::Tensor by_operators(const at::Tensor& logits_NV, const at::Tensor& targets_N,
                        const SoftmaxRows& rows, bool gradient, const Group& vocabulary) {
  at::Tensor values = logits_NV.to(at::kFloat);
  at::Tensor largest = values.amax({1}, /*keepdim=*/true);
  vocabulary.all_reduce_max(largest);
  values.sub_(largest);
  const at::Tensor here = (targets_N.ge(0) & targets_N.lt(values.size(1))).unsqueeze(1);
  // Of one rank every target is here, and one that is not is an error of gather's.
  const at::Tensor targets_N1 = targets_N.unsqueeze(1);
  const at::Tensor places =
      vocabulary.is_one() ? targets_N1 : targets_N1.clamp(0, values.size(1) - 1);
  const at::Tensor picked = values.gather(1, places).masked_fill_(~here, 0);
  values.exp_();
  at::Tensor sums = at::stack({values.sum({1}, /*keepdim=*/true), picked});
  vocabulary.all_reduce(sums);
  rows.largest.copy_(largest);
  rows.sum.copy_(sums[0]);
  rows.losses.copy_(sums[0].log() - sums[1]);
  if (!gradient) return {};
  values.div_(sums[0]).scatter_add_(1, places, here.to(at::kFloat).neg_());
  return values.is_same(logits_NV) ? values : logits_NV.copy_(values);
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
                         bool gradient, const Group& vocabulary) {
  const std::array<int64_t, 1> shape{logits_NV.size(0)};
  TORCH_CHECK(targets_N.sizes() == shape && targets_N.scalar_type() == at::kLong &&
                  rows.losses.numel() == shape[0],
              "targets ", targets_N.sizes(), " are of logits ", logits_NV.sizes());
  const cuda::Kernels* kernels = vocabulary.is_one() ? kernels_for({logits_NV}) : nullptr;
  if (kernels == nullptr) return by_operators(logits_NV, targets_N, rows, gradient, vocabulary);
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
