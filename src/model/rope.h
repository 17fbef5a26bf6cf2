// Rotary position embeddings of both towers: angles from positions, which are always an input, so
// that packing and caching need no special case; kernels/rotate.h turns by them.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/rotate.h"
#include "model/config.h"

namespace trestle {

/// The text tower's frequencies.
struct RopeFrequencies {
  /// [H/2], fp32, radians a position. Made on the CPU, whose powers are the reference's, and kept
  /// where the positions will be.
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

/// 1 / theta^(2i / H), [H/2] in fp32 on the CPU.
at::Tensor inverse_frequencies(double theta, int64_t head_dim);

/// The 2-D axial rotation of Pixtral for one image of rows x cols patches, row-major, [rows*cols,
/// H] where `inverse` is, which is inverse_frequencies(): even frequencies turn with the row, odd
/// ones with the column (transformers `PixtralVisionRotaryEmbedding`).
Rotation axial_rotation(int64_t rows, int64_t cols, const at::Tensor& inverse,
                        at::ScalarType dtype);

/// Llama-4's query scale 1 + beta ln(1 + floor(position / original_max)), [T] in `dtype`.
at::Tensor llama_4_query_scale(const RopeConfig& config, const at::Tensor& positions_T,
                               at::ScalarType dtype);

}  // namespace trestle
