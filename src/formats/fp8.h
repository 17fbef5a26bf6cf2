// FP8 (e4m3) weights with their `weight_scale_inv`: folded into bf16, or what a model needs to hold
// them as they are. Called by hf_checkpoint on reading.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "formats/tensor_source.h"
#include "linear/fp8_weight.h"

namespace trestle {

/// Rows and columns of a weight that share one scale.
struct Fp8Block {
  int64_t rows = 128;
  int64_t columns = 128;
  bool operator==(const Fp8Block&) const = default;
};

/// Which block a scale of this shape means for a weight [out, in] (a convolution's trailing sizes
/// count as in):
/// [] or [1] one scale for all, [out] or [out, 1] one a row, [ceil(out / rows), ceil(in / columns)]
/// one a block of the stated size (`weight_block_size`), or, where none is stated, of 128 x 128 or
/// whatever divides the weight evenly. `what` ("FILE: tensor NAME") opens the UserError of a shape
/// that fits none.
Fp8Block fp8_block(const std::vector<int64_t>& weight_shape,
                   const std::vector<int64_t>& scale_shape, std::optional<Fp8Block> stated,
                   std::string_view what);

/// Throws UserError unless the scale is of a floating type and finite throughout.
void check_fp8_scale(const at::Tensor& scale, std::string_view what);

/// The scales of a matrix of that shape as a held weight takes them; the arguments are fp8_block's.
/// Throws UserError as it and check_fp8_scale do.
Fp8Scales fp8_scales_of(const std::vector<int64_t>& weight_shape, const at::Tensor& scale,
                        std::optional<Fp8Block> stated, std::string_view what);

/// weight (float8_e4m3fn) * scale in fp32, rounded once to bf16; same shape. Scales must be finite.
at::Tensor dequantize_fp8(const at::Tensor& weight, const at::Tensor& scale,
                          std::optional<Fp8Block> stated, std::string_view what);
/// The same of some rows of a weight of `shape`, from their codes into `out`; `scale` is that of
/// the whole.
void dequantize_fp8_rows(const std::byte* codes, RowRange range, const std::vector<int64_t>& shape,
                         const at::Tensor& scale, std::optional<Fp8Block> stated,
                         std::string_view what, at::BFloat16* out);

}  // namespace trestle
