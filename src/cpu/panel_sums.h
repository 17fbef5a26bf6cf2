// The innermost loop of products with weight panels: a panel times a few rows, all sums in
// registers, by AVX-512, AVX2 or plain C++. Called by panel_rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/weight_panels.h"

namespace trestle {

/// Rows of x that a product takes at most.
constexpr int64_t kMostPanelRows = 8;
/// And of a pair of panels.
constexpr int64_t kMostPairRows = 4;
/// And of a panel that is widened.
constexpr int64_t kMostWideRows = 6;

/// Rows of x as a form of panels takes them, padded with zeros to groups: kBf16 the values, in bf16
/// or in fp32 as PanelSums::takes_bf16 says; else codes -127 .. 127 with a scale a group, and the
/// group's sum of codes.
struct PanelInput {
  int64_t batch = 0, groups = 0;
  const uint16_t* bf16 = nullptr;  // [batch, 32 groups]
  const float* fp32 = nullptr;     // [batch, 32 groups]
  const int8_t* codes = nullptr;   // [batch, 32 groups]
  const float* scales = nullptr;   // [batch, groups]
  const int32_t* sums = nullptr;   // [batch, groups]
};

struct PanelSums {
  /// y[b, row] of a panel's 16 rows: y fp32 [batch, 16], summed in fp32 (of bf16 in one or two
  /// partial sums; of codes a group exactly, times both scales, in the order of the groups). What a
  /// row of x gives does not depend on the others, to the bit.
  using Product = void (*)(const std::byte* panel, const PanelInput& x, float* y);
  Product bf16, int8, int4;
  /// Of a panel and the next one, y fp32 [batch, 2, 16], to the bit what `bf16` gives of each; null
  /// where that is as fast.
  Product bf16_pair;
  /// For many rows where bf16 is widened anyway: a panel's values once, fp32 [32 groups, 16], and
  /// what `bf16` gives of it, to the bit; null where that is as fast.
  void (*widen)(const std::byte* panel, int64_t groups, float* wide);
  void (*wide_product)(const float* wide, const PanelInput& x, float* y);
  bool takes_bf16;
  const char* name;  // for people: "AVX-512 BF16 and VNNI"

  Product of(PanelForm form) const {
    return form == PanelForm::kBf16 ? bf16 : form == PanelForm::kInt8 ? int8 : int4;
  }
};

enum class PanelPath { kAvx512, kAvx2, kPlain };

/// Null where the processor lacks it.
const PanelSums* panel_sums(PanelPath path);
/// The fastest that there is here, of those that libtorch's own loops and products may take
/// (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA).
const PanelSums& panel_sums_here();

/// `count` values (at most 32) to codes, 0 behind them -> scale = largest magnitude / 127, and the
/// codes' sum.
float quantize_group(const float* values, int64_t count, int8_t* codes, int32_t* sum);

}  // namespace trestle
