#include "cpu/weight_panels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace trestle {

namespace {

constexpr int64_t kQuad = 4;  // columns of a row that lie beside each other as codes

#define TRESTLE_INLINE inline __attribute__((always_inline))

TRESTLE_INLINE float bf16_value(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// As fp16 keeps it.
float rounded_scale(float scale) { return static_cast<float>(c10::Half(scale)); }

constexpr int64_t kSums = 8;

// Sums in an order that vectors keep.
template <class Term>
TRESTLE_INLINE float sum_over_group(const Term& term) {
  float sums[kSums] = {};
  for (int64_t i = 0; i < kPanelGroup; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  }
  float sum = 0;
  for (const float each : sums) sum += each;
  return sum;
}

struct Codes {
  float scale = 0;
  float codes[kPanelGroup] = {};
};

TRESTLE_INLINE void code(const float* group, float scale, float lowest, float highest,
                         Codes& made) {
  made.scale = rounded_scale(scale);
  const float inverse = made.scale == 0 ? 0 : 1 / made.scale;
  for (int64_t i = 0; i < kPanelGroup; ++i) {
    const float nearest = std::floor(group[i] * inverse + 0.5F);
    made.codes[i] = std::min(std::max(nearest, lowest), highest);
  }
}

TRESTLE_INLINE float error_of(const Codes& coded, const float* group) {
  return sum_over_group([&](int64_t i) {
    const float error = group[i] - coded.scale * coded.codes[i];
    return error * error;
  });
}

// The largest magnitude with its sign; false where a value is no finite number.
TRESTLE_INLINE bool largest_of(const float* group, float& largest) {
  float most[kSums] = {}, least[kSums] = {};
  for (int64_t i = 0; i < kPanelGroup; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) {
      most[j] = std::max(most[j], group[i + j]);
      least[j] = std::min(least[j], group[i + j]);
    }
  }
  float highest = 0, lowest = 0;
  for (int64_t j = 0; j < kSums; ++j) {
    highest = std::max(highest, most[j]);
    lowest = std::min(lowest, least[j]);
  }
  largest = highest >= -lowest ? highest : lowest;
  return sum_over_group([&](int64_t i) { return group[i] * 0; }) == 0;
}

TRESTLE_INLINE bool code_int8(const float* group, Codes& made) {
  constexpr float kMost = 127;
  float largest = 0;
  const bool is_finite = largest_of(group, largest);
  code(group, std::abs(largest) / kMost, -kMost, kMost, made);
  return is_finite && std::isfinite(made.scale);
}

TRESTLE_INLINE bool code_int4(const float* group, Codes& made) {
  constexpr float kLeast = -8, kMost = 7;
  float largest = 0;
  const bool is_finite = largest_of(group, largest);
  code(group, largest / kLeast, kLeast, kMost, made);
  if (!is_finite || !std::isfinite(made.scale)) return false;
  const float squares = sum_over_group([&](int64_t i) { return made.codes[i] * made.codes[i]; });
  if (squares == 0) return true;
  const float product = sum_over_group([&](int64_t i) { return group[i] * made.codes[i]; });
  Codes fitted;
  code(group, product / squares, kLeast, kMost, fitted);
  if (error_of(fitted, group) < error_of(made, group)) made = fitted;
  return true;
}

void pack_bf16(const PanelShape& shape, const uint16_t* values, int64_t rows, std::byte* panel) {
  auto* to = reinterpret_cast<uint16_t*>(panel);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < shape.columns; ++k) {
      to[k / 2 * 2 * kPanelRows + 2 * r + k % 2] = values[r * shape.columns + k];
    }
  }
}

TRESTLE_INLINE void store_codes(PanelForm form, const Codes& coded, int64_t row, uint8_t* group) {
  constexpr int64_t kLine = kPanelRows * kQuad;
  uint8_t* const own = group + row * kQuad;
  for (int64_t quad = 0; quad < kPanelGroup / kQuad; ++quad) {
    for (int64_t i = 0; i < kQuad; ++i) {
      const auto value = static_cast<int>(coded.codes[quad * kQuad + i]);
      if (form == PanelForm::kInt8) {
        own[quad * kLine + i] = static_cast<uint8_t>(value + 128);
      } else if (quad % 2 == 0) {
        own[quad / 2 * kLine + i] = static_cast<uint8_t>(value + 8);
      } else {
        own[quad / 2 * kLine + i] |= static_cast<uint8_t>((value + 8) << 4);
      }
    }
  }
}

TRESTLE_INLINE bool pack_codes(const PanelShape& shape, const uint16_t* values, int64_t rows,
                               std::byte* panel) {
  const int64_t group_bytes = shape.group_bytes();
  bool all_finite = true;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t g = 0; g < shape.groups(); ++g) {
      float group[kPanelGroup] = {};
      const int64_t first = g * kPanelGroup;
      const int64_t count = r < rows ? std::min(kPanelGroup, shape.columns - first) : 0;
      const uint16_t* from = values + r * shape.columns + first;
      for (int64_t i = 0; i < count; ++i) group[i] = bf16_value(from[i]);
      Codes coded;
      const bool is_finite =
          shape.form == PanelForm::kInt8 ? code_int8(group, coded) : code_int4(group, coded);
      all_finite = all_finite && is_finite;
      std::byte* const to = panel + g * group_bytes;
      store_codes(shape.form, coded, r, reinterpret_cast<uint8_t*>(to));
      const c10::Half scale(coded.scale);
      std::memcpy(to + group_bytes - kScaleBytes + 2 * r, &scale.x, sizeof(scale.x));
    }
  }
  return all_finite;
}

using PackCodes = bool (*)(const PanelShape&, const uint16_t*, int64_t, std::byte*);

#define TRESTLE_PACK_CODES(name)                                                               \
  bool name(const PanelShape& shape, const uint16_t* values, int64_t rows, std::byte* panel) { \
    return pack_codes(shape, values, rows, panel);                                             \
  }
#ifdef __x86_64__
__attribute__((target("avx2,f16c"))) TRESTLE_PACK_CODES(pack_with_avx2);
#endif
TRESTLE_PACK_CODES(pack_plainly);

// The same to the bit: no sum of products is fused.
PackCodes packing_of_this_processor() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return pack_with_avx2;
#endif
  return pack_plainly;
}

}  // namespace

bool pack_panel(const PanelShape& shape, const uint16_t* values, int64_t rows, std::byte* panel) {
  std::memset(panel, 0, static_cast<size_t>(shape.panel_bytes()));
  if (shape.form == PanelForm::kBf16) {
    pack_bf16(shape, values, rows, panel);
    return true;
  }
  static const PackCodes kPack = packing_of_this_processor();
  return kPack(shape, values, rows, panel);
}

bool has_finite_scales(const PanelShape& shape, const std::byte* panels) {
  constexpr uint16_t kExponent = 0x7C00;  // of fp16; all ones where the value is not finite
  if (shape.form == PanelForm::kBf16) return true;
  for (int64_t group = 0; group < shape.panels() * shape.groups(); ++group) {
    std::array<uint16_t, kPanelRows> scales{};
    std::memcpy(scales.data(), panels + (group + 1) * shape.group_bytes() - kScaleBytes,
                kScaleBytes);
    for (const uint16_t scale : scales) {
      if ((scale & kExponent) == kExponent) return false;
    }
  }
  return true;
}

void unpack_panel(const PanelShape& shape, const std::byte* panel, int64_t rows, int64_t first,
                  int64_t last, uint16_t* values, int64_t stride) {
  if (shape.form == PanelForm::kBf16) {
    const auto* from = reinterpret_cast<const uint32_t*>(panel);
    for (int64_t k = first; k < last; k += 2) {
      for (int64_t r = 0; r < rows; ++r) {
        const uint32_t both = from[k / 2 * kPanelRows + r];
        values[r * stride + k - first] = static_cast<uint16_t>(both);
        if (k + 1 < last) values[r * stride + k - first + 1] = static_cast<uint16_t>(both >> 16);
      }
    }
    return;
  }
  const bool is_int8 = shape.form == PanelForm::kInt8;
  for (int64_t k = first; k < last; ++k) {
    const std::byte* group = panel + k / kPanelGroup * shape.group_bytes();
    const auto* bytes = reinterpret_cast<const uint8_t*>(group);
    const int64_t quad = k % kPanelGroup / kQuad;
    for (int64_t r = 0; r < rows; ++r) {
      c10::Half scale;
      std::memcpy(&scale.x, group + shape.group_bytes() - 2 * kPanelRows + 2 * r, sizeof(scale.x));
      const int64_t of_quad = r * kQuad + k % kQuad;
      const int code =
          is_int8 ? bytes[quad * kPanelRows * kQuad + of_quad] - 128
                  : (bytes[quad / 2 * kPanelRows * kQuad + of_quad] >> (quad % 2 * 4) & 15) - 8;
      const float value = static_cast<float>(scale) * static_cast<float>(code);
      values[r * stride + k - first] = c10::detail::round_to_nearest_even(value);
    }
  }
}

}  // namespace trestle
