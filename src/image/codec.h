// The three decoders behind decode_image. Each turns a whole file in memory into rows of RGB or
// RGBA and hands out the metadata blocks that may hold an orientation; called by image.cpp only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace trestle {

struct EncodedImage {
  std::span<const std::byte> bytes;
  /// For error messages.
  std::string_view name;
  int64_t max_pixels = 0;
};

struct DecodedImage {
  /// uint8 [H, W, 3], or [H, W, 4] with an alpha that the colours are not multiplied by.
  at::Tensor pixels_HWC;
  /// A TIFF block, with or without "Exif\0\0" before it; empty where the file has none.
  std::string exif;
  std::string xmp;
};

/// All throw UserError naming the image when it is damaged, truncated or has more than max_pixels.
DecodedImage decode_jpeg(const EncodedImage& image);
DecodedImage decode_png(const EncodedImage& image);
DecodedImage decode_webp(const EncodedImage& image);

/// Throws UserError when the header announces no pixels, or more than are allowed. Call before
/// asking for memory.
void check_pixel_count(const EncodedImage& image, int64_t height, int64_t width);

/// The EXIF orientation, 1 to 8; XMP speaks where EXIF has none; 1 where neither does or what they
/// say is damaged.
int image_orientation(std::string_view exif, std::string_view xmp);

}  // namespace trestle
