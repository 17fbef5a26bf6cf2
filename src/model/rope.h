// Rotary position embeddings of both towers. Positions are always an input: packing and caching
// need no special case.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"

namespace trestle {

/// cos and sin, each [T, H], both halves of the head alike.
struct Rotation {
  at::Tensor cos, sin;
};

/// The text tower's frequencies.
struct RopeFrequencies {
  /// [H/2], fp32, radians a position.
  at::Tensor inverse;
  /// What cos and sin are multiplied with (YaRN's attention factor; 1 without YaRN).
  double attention_factor = 1;
};

/// transformers `compute_default_rope_parameters`, or `_compute_yarn_parameters` where the config
/// has YaRN (Peng et al. 2023).
RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim);

/// positions_T int64 [T].
Rotation text_rotation(const RopeFrequencies& frequencies, const at::Tensor& positions_T,
                       at::ScalarType dtype);

/// The 2-D axial rotation of Pixtral for one image of rows x cols patches, row-major, [rows*cols,
/// H]: even frequencies turn with the row, odd ones with the column (transformers
/// `PixtralVisionRotaryEmbedding`).
Rotation axial_rotation(int64_t rows, int64_t cols, int64_t head_dim, double theta,
                        at::TensorOptions options);

/// Rotates x [T, ..., H].
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation);

/// Llama-4's query scale 1 + beta ln(1 + floor(position / original_max)), [T] in `dtype`.
at::Tensor llama_4_query_scale(const RopeConfig& config, const at::Tensor& positions_T,
                               at::ScalarType dtype);

}  // namespace trestle
