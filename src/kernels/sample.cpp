#include "kernels/sample.h"

#include <ATen/ATen.h>

#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

const cuda::Kernels* kernels_of(at::Device device, at::ScalarType dtype, int64_t vocabulary) {
  const bool is_taken =
      (dtype == at::kFloat || dtype == at::kBFloat16) && vocabulary <= cuda::kMostLogits;
  return is_taken ? kernels_for(device) : nullptr;
}

}  // namespace

bool can_sample(const DeviceSampling& sampling, at::Device device, at::ScalarType dtype,
                int64_t vocabulary) {
  return sampling.temperature == 0 || kernels_of(device, dtype, vocabulary) != nullptr;
}

void sample_out(const at::Tensor& ids_B, const at::Tensor& logits_BV,
                const DeviceSampling& sampling, const at::Tensor& step) {
  const cuda::Kernels* kernels =
      kernels_of(logits_BV.device(), logits_BV.scalar_type(), logits_BV.size(1));
  if (kernels == nullptr) {
    TORCH_CHECK(sampling.temperature == 0, "draws are the host's here");
    const auto [best_B, likeliest_B] = logits_BV.max(-1);  // carries a NaN of the row
    ids_B.copy_(likeliest_B.masked_fill(best_B.isfinite().logical_not(), -1));
    return;
  }
  TORCH_CHECK(step.scalar_type() == at::kLong && step.numel() == 1, "a counter on the device");
  const at::Tensor logits = logits_BV.contiguous();
  launch(*kernels, &cuda::Kernels::sample, "sample", logits,
         cuda::Sample{.type = kernel_type(logits.scalar_type()),
                      .rows = logits.size(0),
                      .columns = logits.size(1),
                      .logits = logits.const_data_ptr(),
                      .temperature = sampling.temperature,
                      .top_k = sampling.top_k,
                      .top_p = sampling.top_p,
                      .min_p = sampling.min_p,
                      .seed = sampling.seed,
                      .offset = reinterpret_cast<const uint64_t*>(step.const_data_ptr<int64_t>()),
                      .ids = ids_B.mutable_data_ptr<int64_t>()});
}

}  // namespace trestle
