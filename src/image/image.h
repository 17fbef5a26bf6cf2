// Picture files to RGB pixels, as Pillow and the Hugging Face processor see them, bit for bit.
// Called by load_image (paths, URLs) and by the data sets (bytes out of a Parquet column).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace trestle {

struct ImageOptions {
  /// Turn the picture upright as its EXIF (or XMP) orientation says.
  bool apply_exif = true;
  /// Refused above this before any pixel is decoded; Pillow warns from the same count on.
  int64_t max_pixels = 89'478'485;
};

/// JPEG, PNG (the first frame of an animated one) or WebP, told apart by their first bytes, to
/// uint8 [3, H, W], contiguous. Transparency is composited over white. `name` stands for the
/// picture in the one-line UserError of an empty, truncated, damaged, too large or foreign file.
at::Tensor decode_image(std::span<const std::byte> bytes, std::string_view name,
                        const ImageOptions& options = {});

}  // namespace trestle
