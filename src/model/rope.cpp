#include "model/rope.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

namespace trestle {

namespace {

// The factor by which YaRN sharpens attention at scale s (section 3.4 of the paper).
double mscale_of(double scale, double mscale) {
  return scale <= 1 ? 1 : 0.1 * mscale * std::log(scale) + 1;
}

}  // namespace

at::Tensor inverse_frequencies(double theta, int64_t head_dim) {
  // Kept in fp32 from the first step on, as the reference does: pow and division round there.
  const at::Tensor exponent =
      at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  return at::reciprocal(at::pow(theta, exponent));
}

RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim) {
  const at::Tensor extrapolated = inverse_frequencies(config.theta, head_dim);
  if (!config.yarn) return {extrapolated, 1};
  const YarnConfig& yarn = *config.yarn;

  double attention_factor = mscale_of(yarn.factor, 1);
  if (yarn.attention_factor) {
    attention_factor = *yarn.attention_factor;
  } else if (yarn.mscale.value_or(0) != 0 && yarn.mscale_all_dim.value_or(0) != 0) {
    attention_factor =
        mscale_of(yarn.factor, *yarn.mscale) / mscale_of(yarn.factor, *yarn.mscale_all_dim);
  }

  // The dimension whose wave turns `rotations` times over the original context.
  const auto correction_dim = [&](double rotations) {
    return static_cast<double>(head_dim) *
           std::log(static_cast<double>(yarn.original_max_position_embeddings) /
                    (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = correction_dim(yarn.beta_fast);
  double high = correction_dim(yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // as the reference, against a division by zero

  const at::Tensor ramp = ((at::arange(head_dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  // Below `low` frequencies stay, above `high` they are divided by the factor, between they blend.
  const at::Tensor keep = 1 - ramp;
  const at::Tensor interpolated =
      at::reciprocal(yarn.factor * at::pow(config.theta, at::arange(0, head_dim, 2, at::kFloat) /
                                                             static_cast<double>(head_dim)));
  return {interpolated * (1 - keep) + extrapolated * keep, attention_factor};
}

Rotation text_rotation(const RopeFrequencies& frequencies, const at::Tensor& positions_T,
                       at::ScalarType dtype) {
  const at::Tensor half =
      at::outer(positions_T.to(at::kFloat), frequencies.inverse.to(positions_T.device()));
  const at::Tensor angles = at::cat({half, half}, -1);
  return {(angles.cos() * frequencies.attention_factor).to(dtype),
          (angles.sin() * frequencies.attention_factor).to(dtype)};
}

Rotation axial_rotation(int64_t rows, int64_t cols, const at::Tensor& inverse,
                        at::ScalarType dtype) {
  const auto turned = [&](int64_t count, int64_t first) {
    return at::outer(at::arange(count, inverse.options()),
                     inverse.slice(0, first, inverse.size(0), 2));
  };
  const at::Tensor by_row = turned(rows, 0), by_col = turned(cols, 1);
  const at::Tensor half = at::cat({by_row.unsqueeze(1).expand({rows, cols, -1}),
                                   by_col.unsqueeze(0).expand({rows, cols, -1})},
                                  -1)
                              .reshape({rows * cols, -1});
  const at::Tensor angles = at::cat({half, half}, -1);
  return {angles.cos().to(dtype), angles.sin().to(dtype)};
}

at::Tensor llama_4_query_scale(const RopeConfig& config, const at::Tensor& positions_T,
                               at::ScalarType dtype) {
  const at::Tensor turns =
      at::floor(positions_T.to(at::kFloat) /
                static_cast<double>(config.llama_4_original_max_position_embeddings));
  return (1 + *config.llama_4_scaling_beta * at::log(1 + turns)).to(dtype);
}

}  // namespace trestle
