#include "cpu/panel_sums.h"

#include <ATen/Version.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/cpu.h"
#include "cpu/panel_sums_of.h"

namespace trestle {

namespace {

float value_of(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

float scale_at(const std::byte* scales, int64_t row) {
  c10::Half scale;
  std::memcpy(&scale.x, scales + 2 * row, sizeof(scale.x));
  return scale;
}

template <int kBatch>
void bf16_product(const std::byte* panel, const PanelInput& x, float* y) {
  const int64_t columns = x.groups * kPanelGroup;
  const auto* weights = reinterpret_cast<const uint16_t*>(panel);
  std::fill_n(y, kBatch * kPanelRows, 0.0F);
  for (int64_t k = 0; k < columns; k += 2, weights += 2 * kPanelRows) {
    for (int b = 0; b < kBatch; ++b) {
      const float* from = x.fp32 + b * columns + k;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        y[b * kPanelRows + r] +=
            value_of(weights[2 * r]) * from[0] + value_of(weights[2 * r + 1]) * from[1];
      }
    }
  }
}

// code(group, k, r): the code of a group's column k of row r.
template <int kBatch, class Code>
void code_product(const std::byte* panel, int64_t group_bytes, const PanelInput& x, float* y,
                  const Code& code) {
  const int64_t columns = x.groups * kPanelGroup;
  std::fill_n(y, kBatch * kPanelRows, 0.0F);
  for (int64_t g = 0; g < x.groups; ++g, panel += group_bytes) {
    const std::byte* scales = panel + group_bytes - 2 * kPanelRows;
    for (int b = 0; b < kBatch; ++b) {
      const int8_t* from = x.codes + b * columns + g * kPanelGroup;
      for (int64_t r = 0; r < kPanelRows; ++r) {
        int32_t dot = 0;
        for (int64_t k = 0; k < kPanelGroup; ++k) {
          dot += code(reinterpret_cast<const uint8_t*>(panel), k, r) * from[k];
        }
        y[b * kPanelRows + r] +=
            static_cast<float>(dot) * (scale_at(scales, r) * x.scales[b * x.groups + g]);
      }
    }
  }
}

template <int kBatch>
void int8_product(const std::byte* panel, const PanelInput& x, float* y) {
  constexpr PanelShape kShape{PanelForm::kInt8};
  code_product<kBatch>(panel, kShape.group_bytes(), x, y,
                       [](const uint8_t* codes, int64_t k, int64_t r) {
                         return codes[k / 4 * 4 * kPanelRows + 4 * r + k % 4] - 128;
                       });
}

template <int kBatch>
void int4_product(const std::byte* panel, const PanelInput& x, float* y) {
  constexpr PanelShape kShape{PanelForm::kInt4};
  code_product<kBatch>(panel, kShape.group_bytes(), x, y,
                       [](const uint8_t* codes, int64_t k, int64_t r) {
                         const int both = codes[k / 8 * 4 * kPanelRows + 4 * r + k % 4];
                         return (both >> (k / 4 % 2 * 4) & 15) - 8;
                       });
}

}  // namespace

const PanelSums* panel_sums_plain() {
  static constexpr PanelSums kSums = {TRESTLE_BY_BATCH(bf16_product),
                                      TRESTLE_BY_BATCH(int8_product),
                                      TRESTLE_BY_BATCH(int4_product),
                                      nullptr,
                                      nullptr,
                                      nullptr,
                                      false,
                                      "plain C++"};
  return &kSums;
}

const PanelSums* panel_sums(PanelPath path) {
  switch (path) {
    case PanelPath::kAvx512:
      return panel_sums_avx512();
    case PanelPath::kAvx2:
      return panel_sums_avx2();
    case PanelPath::kPlain:
      return panel_sums_plain();
  }
  return nullptr;
}

const PanelSums& panel_sums_here() {
  static const PanelSums& kHere = []() -> const PanelSums& {
    // libtorch's own loops may be held to less of the processor (ATEN_CPU_CAPABILITY), its products
    // too (bf16_path).
    const std::string vectors = at::get_cpu_capability();
    const PanelSums* best = nullptr;
    if (vectors == "AVX512" && bf16_path() == Bf16Path::kNative) best = panel_sums_avx512();
    if (best == nullptr && vectors.starts_with("AVX")) best = panel_sums_avx2();
    return best == nullptr ? *panel_sums_plain() : *best;
  }();
  return kHere;
}

float quantize_group(const float* values, int64_t count, int8_t* codes, int32_t* sum) {
  constexpr float kMost = 127;
  float largest = 0, all = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(values[i]));
    all += values[i] * 0;  // NaN where a value is no finite number
  }
  std::fill_n(codes, kPanelGroup, int8_t{0});
  *sum = 0;
  if (std::isnan(all)) return all;
  // Below, the inverse of a scale is no number of fp32.
  constexpr float kLeast = 1e-34F;
  if (largest < kLeast) return 0;
  const float inverse = kMost / largest;
  int32_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(values[i] * inverse));
    total += codes[i];
  }
  *sum = total;
  return largest / kMost;
}

}  // namespace trestle
