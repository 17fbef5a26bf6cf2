// bf16 to fp32 and back, of every bf16 and of fp32s around each, against libtorch's scalar
// rounding.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "kernels/convert.h"

namespace trestle {
namespace {

TEST(Convert, EveryBf16IsWidenedExactlyAndComesBack) {
  std::vector<c10::BFloat16> all, back(1 << 16);
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    all.emplace_back(static_cast<uint16_t>(bits), c10::BFloat16::from_bits());
  }
  std::vector<float> wide(all.size());
  widen(all.data(), wide.data(), std::ssize(all));
  round_to_bf16(wide.data(), back.data(), std::ssize(all));
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), uint32_t{all[i].x} << 16);
    if (std::isnan(wide[i])) {
      ASSERT_TRUE(std::isnan(static_cast<float>(back[i]))) << i;
    } else {
      ASSERT_EQ(back[i].x, all[i].x);
    }
  }
}

TEST(Convert, RoundsToTheNearestAndTiesToEven) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 1 << 16; ++high) {
    for (const uint32_t low : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  std::vector<c10::BFloat16> rounded(values.size());
  round_to_bf16(values.data(), rounded.data(), std::ssize(values));
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(rounded[i].x, c10::detail::round_to_nearest_even(values[i])) << values[i];
  }
}

}  // namespace
}  // namespace trestle
