// libpng reports errors by longjmp, which must not skip a destructor: each function that calls
// setjmp below holds only pointers and numbers, and everything with a destructor lives in its
// caller.
#include <ATen/ATen.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "image/codec.h"

namespace trestle {

namespace {

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf on_error{};
  char message[128] = "out of memory";
  const std::byte* data = nullptr;
  size_t size = 0;

  int64_t height = 0, width = 0;
  int color_type = 0, bit_depth = 0;
  size_t row_bytes = 0;
  /// The palette and its alpha; entries the file does not define are opaque black.
  std::array<std::array<uint8_t, 4>, 256> palette{};
  /// A palette with alpha, or for grey and RGB the one colour that is transparent.
  bool has_transparency = false;
  png_color_16 transparent{};

  PngReader() = default;
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void fail(png_structp png, png_const_charp message) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", message);
  std::longjmp(reader->on_error, 1);
}

void ignore(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep out, size_t count) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (count > reader->size) png_error(png, "truncated");
  std::memcpy(out, reader->data, count);
  reader->data += count;
  reader->size -= count;
}

void read_palette(PngReader* reader) {
  png_colorp colors = nullptr;
  int count = 0;
  png_get_PLTE(reader->png, reader->info, &colors, &count);
  for (auto& entry : reader->palette) entry = {0, 0, 0, 255};
  for (int i = 0; i < count; ++i) {
    reader->palette[i] = {colors[i].red, colors[i].green, colors[i].blue, 255};
  }
}

/// Header and every chunk before the pixels. Rows will come as 8-bit samples or palette indices;
/// only 16-bit grey keeps its two bytes, see write_row.
bool read_header(PngReader* reader) {
  if (setjmp(reader->on_error)) return false;
  reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, reader, fail, ignore);
  if (reader->png == nullptr) return false;
  reader->info = png_create_info_struct(reader->png);
  if (reader->info == nullptr) return false;
  png_set_read_fn(reader->png, reader, take);
  // Of the chunks beside the pixels only tRNS is wanted. libpng would ask for whatever size the
  // others claim, and unpack some.
  png_set_keep_unknown_chunks(reader->png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_read_info(reader->png, reader->info);
  reader->height = png_get_image_height(reader->png, reader->info);
  reader->width = png_get_image_width(reader->png, reader->info);
  reader->color_type = png_get_color_type(reader->png, reader->info);
  reader->bit_depth = png_get_bit_depth(reader->png, reader->info);

  const bool indexed = reader->color_type == PNG_COLOR_TYPE_PALETTE;
  if (indexed) read_palette(reader);
  png_bytep alphas = nullptr;
  int alpha_count = 0;
  png_color_16p color = nullptr;
  if (png_get_tRNS(reader->png, reader->info, &alphas, &alpha_count, &color) != 0) {
    reader->has_transparency = true;
    if (indexed) {
      for (int i = 0; i < alpha_count; ++i) reader->palette[i][3] = alphas[i];
    } else {
      reader->transparent = *color;
    }
  }

  if (reader->bit_depth < 8) {
    if (indexed) {
      png_set_packing(reader->png);
    } else {
      png_set_expand_gray_1_2_4_to_8(reader->png);
    }
  } else if (reader->bit_depth == 16 && reader->color_type != PNG_COLOR_TYPE_GRAY) {
    png_set_strip_16(reader->png);
  }
  png_set_interlace_handling(reader->png);
  png_read_update_info(reader->png, reader->info);
  reader->row_bytes = png_get_rowbytes(reader->png, reader->info);
  return true;
}

bool read_rows(PngReader* reader, png_bytepp rows) {
  if (setjmp(reader->on_error)) return false;
  png_read_image(reader->png, rows);
  return true;
}

/// Pillow compares the low byte of the tRNS chunk's 16-bit value with the 8-bit sample, whatever
/// the bit depth is; one bit a sample excepted.
uint8_t transparent_sample(const PngReader& reader, png_uint_16 value) {
  if (reader.bit_depth == 1) return value != 0 ? 255 : 0;
  return static_cast<uint8_t>(value);
}

/// One row to RGB (`channels` 3) or RGBA (4).
void write_row(const PngReader& reader, const uint8_t* in, uint8_t* out, int64_t channels) {
  const std::array<uint8_t, 3> transparent = {transparent_sample(reader, reader.transparent.red),
                                              transparent_sample(reader, reader.transparent.green),
                                              transparent_sample(reader, reader.transparent.blue)};
  const uint8_t transparent_gray = transparent_sample(reader, reader.transparent.gray);
  for (int64_t x = 0; x < reader.width; ++x, out += channels) {
    uint8_t alpha = 255;
    switch (reader.color_type) {
      case PNG_COLOR_TYPE_GRAY: {
        uint8_t gray = *in++;
        if (reader.bit_depth == 16) {
          // Pillow clips 16-bit grey at 255 where every other 16-bit sample keeps its high byte.
          const uint8_t low = *in++;
          gray = gray != 0 ? 255 : low;
        }
        std::fill_n(out, 3, gray);
        if (gray == transparent_gray) alpha = 0;
        break;
      }
      case PNG_COLOR_TYPE_GRAY_ALPHA:
        std::fill_n(out, 3, in[0]);
        alpha = in[1];
        in += 2;
        break;
      case PNG_COLOR_TYPE_PALETTE: {
        const auto& entry = reader.palette[*in++];
        std::copy_n(entry.data(), 3, out);
        alpha = entry[3];
        break;
      }
      case PNG_COLOR_TYPE_RGB:
        std::copy_n(in, 3, out);
        if (std::equal(in, in + 3, transparent.begin())) alpha = 0;
        in += 3;
        break;
      default:
        std::copy_n(in, 3, out);
        alpha = in[3];
        in += 4;
    }
    if (channels == 4) out[3] = alpha;
  }
}

uint32_t big_endian_32(std::string_view text, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(text[at + i]);
  return value;
}

/// Metadata chunks may also follow the pixels, where libpng has not looked.
void read_metadata(std::string_view file, DecodedImage& decoded) {
  constexpr std::string_view kXmp("XML:com.adobe.xmp\0\0", 19);  // then "compressed" 0
  size_t at = 8;
  while (file.size() - at >= 12) {
    const uint32_t size = big_endian_32(file, at);
    if (size > file.size() - at - 12) return;
    const std::string_view kind = file.substr(at + 4, 4), data = file.substr(at + 8, size);
    if (kind == "eXIf") decoded.exif = data;
    if (kind == "iTXt" && data.starts_with(kXmp)) decoded.xmp = data.substr(kXmp.size());
    at += 12 + static_cast<size_t>(size);
  }
}

}  // namespace

DecodedImage decode_png(const EncodedImage& image) {
  PngReader reader;
  reader.data = image.bytes.data();
  reader.size = image.bytes.size();
  if (!read_header(&reader)) {
    user_error("{}: cannot decode the PNG image: {}", image.name, reader.message);
  }
  check_pixel_count(image, reader.height, reader.width);

  const at::Tensor raw =
      at::empty({reader.height, static_cast<int64_t>(reader.row_bytes)}, at::kByte);
  std::vector<png_bytep> rows(static_cast<size_t>(reader.height));
  for (size_t y = 0; y < rows.size(); ++y) {
    rows[y] = raw.mutable_data_ptr<uint8_t>() + y * reader.row_bytes;
  }
  if (!read_rows(&reader, rows.data())) {
    user_error("{}: cannot decode the PNG image: {}", image.name, reader.message);
  }

  DecodedImage decoded;
  const bool alpha = reader.has_transparency || (reader.color_type & PNG_COLOR_MASK_ALPHA) != 0;
  const int64_t channels = alpha ? 4 : 3;
  decoded.pixels_HWC = at::empty({reader.height, reader.width, channels}, at::kByte);
  uint8_t* out = decoded.pixels_HWC.mutable_data_ptr<uint8_t>();
  for (const png_bytep row : rows) {
    write_row(reader, row, out, channels);
    out += reader.width * channels;
  }
  read_metadata({reinterpret_cast<const char*>(image.bytes.data()), image.bytes.size()}, decoded);
  return decoded;
}

}  // namespace trestle
