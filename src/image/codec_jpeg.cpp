// libjpeg reports errors by longjmp, which must not skip a destructor: each function that calls
// setjmp below holds only pointers and numbers, and everything with a destructor lives in its
// caller.
#include <ATen/ATen.h>

#include <csetjmp>
#include <cstdio>
// After <cstdio>: libjpeg's header wants FILE.
#include <jpeglib.h>

#include "base/error.h"
#include "image/codec.h"

namespace trestle {

namespace {

/// A progressive file can repeat a tiny scan over all its pixels any number of times; real ones
/// have about ten.
constexpr int kMaxScans = 500;

struct JpegReader {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf on_error{};
  char message[JMSG_LENGTH_MAX] = "";

  JpegReader() = default;
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info); }
};

[[noreturn]] void give_up(j_common_ptr info) {
  std::longjmp(static_cast<JpegReader*>(info->client_data)->on_error, 1);
}

[[noreturn]] void fail(j_common_ptr info) {
  info->err->format_message(info, static_cast<JpegReader*>(info->client_data)->message);
  give_up(info);
}

// Recoverable damage inside a scan is passed over, as Pillow does.
void ignore(j_common_ptr) {}

// libjpeg's own memory source would invent an end-of-image marker here and fill the rest with grey.
boolean truncated(j_decompress_ptr info) {
  std::snprintf(static_cast<JpegReader*>(info->client_data)->message, JMSG_LENGTH_MAX, "truncated");
  give_up(reinterpret_cast<j_common_ptr>(info));
}

void count_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMaxScans) return;
  std::snprintf(static_cast<JpegReader*>(info->client_data)->message, JMSG_LENGTH_MAX,
                "more than %d scans", kMaxScans);
  give_up(info);
}

bool read_header(JpegReader* reader, const std::byte* data, size_t size) {
  if (setjmp(reader->on_error)) return false;
  jpeg_decompress_struct* info = &reader->info;
  info->err = jpeg_std_error(&reader->errors);
  info->client_data = reader;
  reader->errors.error_exit = fail;
  reader->errors.output_message = ignore;
  jpeg_create_decompress(info);
  reader->progress.progress_monitor = count_scans;
  info->progress = &reader->progress;
  jpeg_mem_src(info, reinterpret_cast<const unsigned char*>(data), size);
  info->src->fill_input_buffer = truncated;
  jpeg_save_markers(info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(info, TRUE);
  // The defaults are Pillow's: slow integer IDCT, fancy up-sampling. YCCK comes out as CMYK.
  info->out_color_space = info->num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

bool read_rows(JpegReader* reader, uint8_t* out, size_t row_bytes) {
  if (setjmp(reader->on_error)) return false;
  jpeg_decompress_struct* info = &reader->info;
  jpeg_start_decompress(info);
  while (info->output_scanline < info->output_height) {
    JSAMPROW row = out + row_bytes * info->output_scanline;
    jpeg_read_scanlines(info, &row, 1);
  }
  jpeg_finish_decompress(info);
  return true;
}

/// a * b / 255 rounded to nearest.
unsigned scaled(unsigned a, unsigned b) { return (a * b + 127) / 255; }

/// Four-channel files are taken to be inverted, as Adobe writes them, whether or not a marker says
/// so: Pillow's rule.
at::Tensor cmyk_to_rgb(const at::Tensor& inverted_HWC) {
  const int64_t pixels = inverted_HWC.size(0) * inverted_HWC.size(1);
  at::Tensor rgb_HWC = at::empty({inverted_HWC.size(0), inverted_HWC.size(1), 3}, at::kByte);
  const uint8_t* in = inverted_HWC.const_data_ptr<uint8_t>();
  uint8_t* out = rgb_HWC.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < pixels; ++i, in += 4, out += 3) {
    const unsigned light = in[3];
    for (int c = 0; c < 3; ++c) {
      out[c] = static_cast<uint8_t>(light - scaled(255u - in[c], light));
    }
  }
  return rgb_HWC;
}

/// Copies, because libjpeg frees the markers with the last row.
void read_metadata(const jpeg_decompress_struct& info, DecodedImage& decoded) {
  constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  for (const jpeg_marker_struct* m = info.marker_list; m != nullptr; m = m->next) {
    const std::string_view data(reinterpret_cast<const char*>(m->data), m->data_length);
    if (decoded.exif.empty() && data.starts_with(kExif)) decoded.exif = data;
    if (decoded.xmp.empty() && data.starts_with(kXmp)) decoded.xmp = data.substr(kXmp.size());
  }
}

}  // namespace

DecodedImage decode_jpeg(const EncodedImage& image) {
  JpegReader reader;
  if (!read_header(&reader, image.bytes.data(), image.bytes.size())) {
    user_error("{}: cannot decode the JPEG image: {}", image.name, reader.message);
  }
  const int64_t height = reader.info.image_height, width = reader.info.image_width;
  check_pixel_count(image, height, width);
  const int64_t channels = reader.info.out_color_space == JCS_CMYK ? 4 : 3;

  DecodedImage decoded;
  read_metadata(reader.info, decoded);
  decoded.pixels_HWC = at::empty({height, width, channels}, at::kByte);
  if (!read_rows(&reader, decoded.pixels_HWC.mutable_data_ptr<uint8_t>(),
                 static_cast<size_t>(width * channels))) {
    user_error("{}: cannot decode the JPEG image: {}", image.name, reader.message);
  }
  if (channels == 4) decoded.pixels_HWC = cmyk_to_rgb(decoded.pixels_HWC);
  return decoded;
}

}  // namespace trestle
