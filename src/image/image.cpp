#include "image/image.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "image/codec.h"

namespace trestle {

namespace {

using namespace std::string_view_literals;

bool begins(std::string_view text, std::string_view magic, size_t at = 0) {
  return text.size() >= at && text.substr(at).starts_with(magic);
}

/// What a file that we do not read seems to be, to tell the user what to convert.
std::string_view foreign_format(std::string_view text) {
  if (begins(text, "GIF8"sv)) return "a GIF";
  if (begins(text, "BM"sv)) return "a BMP";
  if (begins(text, "II*\0"sv) || begins(text, "MM\0*"sv)) return "a TIFF";
  if (begins(text, "ftypavi"sv, 4)) return "AVIF";
  if (begins(text, "ftyp"sv, 4)) return "HEIC or a video";
  if (begins(text, "%PDF"sv)) return "a PDF";
  if (begins(text, "<"sv)) return "a text of HTML, XML or SVG";
  return "of an unknown format";
}

DecodedImage decode(const EncodedImage& image) {
  const std::string_view text(reinterpret_cast<const char*>(image.bytes.data()),
                              image.bytes.size());
  if (text.empty()) user_error("{}: the image is empty (0 bytes)", image.name);
  if (begins(text, "\xff\xd8\xff"sv)) return decode_jpeg(image);
  if (begins(text, "\x89PNG\r\n\x1a\n"sv)) return decode_png(image);
  if (begins(text, "RIFF"sv) && begins(text, "WEBP"sv, 8)) return decode_webp(image);
  user_error("{}: not a JPEG, PNG or WebP image but {}; convert it", image.name,
             foreign_format(text));
}

/// Alpha over white in integers, rounded to nearest: equal to Pillow's alpha_composite for all
/// 65,536 pairs.
at::Tensor composite_over_white(const at::Tensor& rgba_HWC) {
  const int64_t pixels = rgba_HWC.size(0) * rgba_HWC.size(1);
  at::Tensor rgb_HWC = at::empty({rgba_HWC.size(0), rgba_HWC.size(1), 3}, at::kByte);
  const uint8_t* in = rgba_HWC.const_data_ptr<uint8_t>();
  uint8_t* out = rgb_HWC.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < pixels; ++i, in += 4, out += 3) {
    const unsigned alpha = in[3];
    for (int c = 0; c < 3; ++c) {
      out[c] = static_cast<uint8_t>((in[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
  }
  return rgb_HWC;
}

/// Orientations 5 to 8 stand on their side: transposed first, then flipped like 1 to 4.
at::Tensor turn_upright(const at::Tensor& pixels_HWC, int orientation) {
  switch (orientation) {
    case 2:
      return pixels_HWC.flip({1});
    case 3:
      return pixels_HWC.flip({0, 1});
    case 4:
      return pixels_HWC.flip({0});
    case 5:
      return pixels_HWC.transpose(0, 1);
    case 6:
      return pixels_HWC.transpose(0, 1).flip({1});
    case 7:
      return pixels_HWC.transpose(0, 1).flip({0, 1});
    case 8:
      return pixels_HWC.transpose(0, 1).flip({0});
    default:
      return pixels_HWC;
  }
}

}  // namespace

void check_pixel_count(const EncodedImage& image, int64_t height, int64_t width) {
  if (height <= 0 || width <= 0) {
    user_error("{}: the image has no pixels ({} x {})", image.name, width, height);
  }
  // Neither side can exceed 2^31, so the product is safe in 64 bits.
  if (height * width > image.max_pixels) {
    user_error("{}: {} x {} = {} pixels, over the limit of {}; scale the image down", image.name,
               width, height, height * width, image.max_pixels);
  }
}

at::Tensor decode_image(std::span<const std::byte> bytes, std::string_view name,
                        const ImageOptions& options) {
  const DecodedImage decoded = decode({bytes, name, options.max_pixels});
  at::Tensor pixels_HWC = decoded.pixels_HWC;
  if (pixels_HWC.size(2) == 4) pixels_HWC = composite_over_white(pixels_HWC);
  if (options.apply_exif) {
    pixels_HWC = turn_upright(pixels_HWC, image_orientation(decoded.exif, decoded.xmp));
  }
  return pixels_HWC.permute({2, 0, 1}).contiguous();
}

}  // namespace trestle
