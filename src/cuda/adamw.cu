// One launch for all parameters, weights rounded and gradients clipped on the way: 28 bytes a
// parameter with gradients and weights in bf16, 28 in fp32. libtorch's fused step takes fp32
// gradients: with their copy, clipping and the rounding of weights it moves 44, in a launch or more
// each a parameter.
#include <cmath>
#include <type_traits>

#include "cuda/adamw.h"
#include "cuda/parameter_table.cuh"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 256;

// What the host makes of options and step, in fp64.
struct Rates {
  float keep, step_size;  // 1 - rate * decay; rate / (1 - beta1^step)
};
struct Constants {
  Rates groups[kMostGroups];
  float one_minus_beta1, beta2, one_minus_beta2, inverse_correction2, eps;
};

template <int kWidth, class G>
__device__ __forceinline__ void update(const Parameter& parameter, int64_t i,
                                       const Constants& constants, const Rates& rates,
                                       float factor) {
  const auto gradient = load<kWidth>(static_cast<const G*>(parameter.gradient) + i);
  auto master = load<kWidth>(parameter.master + i);
  auto average = load<kWidth>(parameter.exp_avg + i);
  auto square = load<kWidth>(parameter.exp_avg_sq + i);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float g = to_float(gradient.values[j]) * factor;
    float &m = average.values[j], &v = square.values[j], &w = master.values[j];
    m += constants.one_minus_beta1 * (g - m);
    v = constants.beta2 * v + constants.one_minus_beta2 * g * g;
    const float denominator = sqrtf(v) * constants.inverse_correction2 + constants.eps;
    w = rates.keep * w - rates.step_size * m / denominator;
  }
  store<kWidth>(parameter.master + i, master);
  store<kWidth>(parameter.exp_avg + i, average);
  store<kWidth>(parameter.exp_avg_sq + i, square);
  if (parameter.weight == nullptr) return;
  Pack<__nv_bfloat16, kWidth> weight;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) weight.values[j] = rounded<__nv_bfloat16>(master.values[j]);
  store<kWidth>(static_cast<__nv_bfloat16*>(parameter.weight) + i, weight);
}

__global__ void __launch_bounds__(kThreads)
    update_all(ParameterTable table, Constants constants, const GradientNorm* norm) {
  if (norm != nullptr && norm->finite == 0) return;
  const float factor = norm == nullptr ? 1 : norm->factor;
  const Chunk chunk = chunk_of(table, blockIdx.x);
  const Parameter& parameter = chunk.parameter;
  if (parameter.gradient == nullptr) return;
  const Rates rates = constants.groups[parameter.group];
  const bool aligned = is_aligned_here(parameter.gradient) && is_aligned_here(parameter.master) &&
                       is_aligned_here(parameter.exp_avg) &&
                       is_aligned_here(parameter.exp_avg_sq) && is_aligned_here(parameter.weight);
  with_gradient_type(parameter, [&](auto t) {
    for_elements(chunk, aligned, [&](int64_t i, auto width) {
      update<width, decltype(t)>(parameter, i, constants, rates, factor);
    });
  });
}

}  // namespace

int adamw(const AdamW& args, Stream stream) {
  const auto step = static_cast<double>(args.step);
  const double correction1 = 1 - std::pow(args.beta1, step);
  const double correction2 = 1 - std::pow(args.beta2, step);
  Constants constants{{},
                      static_cast<float>(1 - args.beta1),
                      static_cast<float>(args.beta2),
                      static_cast<float>(1 - args.beta2),
                      static_cast<float>(1 / std::sqrt(correction2)),
                      static_cast<float>(args.eps)};
  for (int i = 0; i < kMostGroups; ++i) {
    const AdamWGroup& group = args.groups[i];
    constants.groups[i] = {static_cast<float>(1 - group.learning_rate * group.weight_decay),
                           static_cast<float>(group.learning_rate / correction1)};
  }
  return launch(update_all, args.table.chunks, kThreads, 0, stream, args.table, constants,
                args.norm);
}

}  // namespace trestle::cuda
