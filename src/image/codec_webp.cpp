#include <ATen/ATen.h>
#include <webp/decode.h>

#include "base/error.h"
#include "image/codec.h"

namespace trestle {

namespace {

uint32_t little_endian_32(std::string_view text, size_t at) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(text[at + i]);
  return value;
}

/// Walks the RIFF chunks, which are padded to even sizes.
void read_metadata(std::string_view file, DecodedImage& decoded) {
  size_t at = 12;
  while (file.size() >= at + 8) {
    const std::string_view kind = file.substr(at, 4);
    const size_t size = little_endian_32(file, at + 4);
    if (size > file.size() - at - 8) return;
    if (kind == "EXIF") decoded.exif = file.substr(at + 8, size);
    if (kind == "XMP ") decoded.xmp = file.substr(at + 8, size);
    at += 8 + size + size % 2;
  }
}

}  // namespace

DecodedImage decode_webp(const EncodedImage& image) {
  const auto* data = reinterpret_cast<const uint8_t*>(image.bytes.data());
  const size_t size = image.bytes.size();
  WebPBitstreamFeatures features;
  const VP8StatusCode status = WebPGetFeatures(data, size, &features);
  if (status != VP8_STATUS_OK) {
    user_error("{}: cannot decode the WebP image: {}", image.name,
               status == VP8_STATUS_NOT_ENOUGH_DATA ? "truncated" : "damaged");
  }
  if (features.has_animation) {
    user_error("{}: an animated WebP is not supported; save one frame of it", image.name);
  }
  check_pixel_count(image, features.height, features.width);

  DecodedImage decoded;
  const int64_t channels = features.has_alpha ? 4 : 3;
  decoded.pixels_HWC = at::empty({features.height, features.width, channels}, at::kByte);
  uint8_t* out = decoded.pixels_HWC.mutable_data_ptr<uint8_t>();
  const auto capacity = static_cast<size_t>(decoded.pixels_HWC.numel());
  const int stride = static_cast<int>(features.width * channels);
  const auto decode = features.has_alpha ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  if (decode(data, size, out, capacity, stride) == nullptr) {
    user_error("{}: cannot decode the WebP image: truncated or damaged", image.name);
  }
  read_metadata({reinterpret_cast<const char*>(data), size}, decoded);
  return decoded;
}

}  // namespace trestle
