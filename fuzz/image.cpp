// JPEG, PNG and WebP, with their EXIF and XMP.
#include "image/image.h"

#include "fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kMaxPixels = 1 << 18;
  fuzz::or_refused([&] {
    const at::Tensor pixels =
        decode_image(fuzz::bytes_of(data, size), "input", {.max_pixels = kMaxPixels});
    fuzz::expect(pixels.dim() == 3 && pixels.size(0) == 3 && pixels.numel() <= 3 * kMaxPixels);
  });
  return 0;
}
