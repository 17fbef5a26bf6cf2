#include <cstring>

#include "image/codec.h"

namespace trestle {

namespace {

constexpr int kOrientationTag = 0x0112;

/// Bounds-checked integers of a TIFF block; past its end everything reads as 0.
struct TiffReader {
  std::string_view data;
  bool big_endian;

  uint32_t integer(size_t at, size_t size) const {
    if (at > data.size() || data.size() - at < size) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) {
      const auto byte = static_cast<uint8_t>(data[at + (big_endian ? i : size - 1 - i)]);
      value = value << 8 | byte;
    }
    return value;
  }
};

/// 0 where the block has no usable orientation.
int exif_orientation(std::string_view exif) {
  // Some writers put the prefix there twice.
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  for (int i = 0; i < 2 && exif.starts_with(kPrefix); ++i) exif.remove_prefix(kPrefix.size());
  if (!exif.starts_with("II") && !exif.starts_with("MM")) return 0;
  const TiffReader tiff{exif, exif.starts_with("MM")};
  if (tiff.integer(2, 2) != 42) return 0;
  const size_t directory = tiff.integer(4, 4);
  const size_t count = tiff.integer(directory, 2);
  for (size_t i = 0; i < count; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (tiff.integer(entry, 2) != kOrientationTag) continue;
    if (tiff.integer(entry + 4, 4) != 1) return 0;
    switch (tiff.integer(entry + 2, 2)) {
      case 3:  // SHORT
        return static_cast<int>(tiff.integer(entry + 8, 2));
      case 4:  // LONG
        return static_cast<int>(tiff.integer(entry + 8, 4));
      default:
        return 0;
    }
  }
  return 0;
}

/// The attribute form `tiff:Orientation="6"` or the element form `<tiff:Orientation>6<`; 0 without
/// either.
int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != xmp.npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    const size_t skip = rest.starts_with("=\"") ? 2 : rest.starts_with('>') ? 1 : 0;
    if (skip > 0 && rest.size() > skip && rest[skip] >= '0' && rest[skip] <= '9')
      return rest[skip] - '0';
  }
  return 0;
}

}  // namespace

int image_orientation(std::string_view exif, std::string_view xmp) {
  int orientation = exif_orientation(exif);
  if (orientation == 0) orientation = xmp_orientation(xmp);
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

}  // namespace trestle
