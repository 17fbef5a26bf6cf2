#include "kernels/convert.h"

#include <bit>

namespace trestle {

// Loops of plain shifts and adds: every compiler makes vectors of them, on every processor.

void widen(const c10::BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].x) << 16);
  }
}

void round_to_bf16(const float* from, c10::BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    to[i].x = static_cast<uint16_t>(is_nan ? 0x7FC0 : rounded);
  }
}

}  // namespace trestle
