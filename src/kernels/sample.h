// The next tokens, chosen where the logits are: no logit travels to the host and nobody waits.
// Called by the generator's decode step; generate/sampling.h is the host's sampler.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace trestle {

/// As generate/sampling.h has them.
struct DeviceSampling {
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1, min_p = 0;
  uint64_t seed = 0;
};

/// Whether sample_out() can choose from rows of V logits of that dtype on `device`: with
/// temperature 0 everywhere, else where a card's kernels are.
bool can_sample(const DeviceSampling& sampling, at::Device device, at::ScalarType dtype,
                int64_t vocabulary);

/// logits [B, V] -> ids_B, int64, -1 where a row's best logit is not finite. Greedy takes the
/// likeliest, of equal ones the lowest id; otherwise what cuda/sample.h draws with `step`, one
/// int64 where the logits are, as its counter.
void sample_out(const at::Tensor& ids_B, const at::Tensor& logits_BV,
                const DeviceSampling& sampling, const at::Tensor& step);

}  // namespace trestle
