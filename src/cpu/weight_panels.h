// A weight matrix as decoding reads it: from the first byte to the last, once a token. Panels of 16
// rows lie one behind the other, and within a panel the columns, so that every processor reads one
// stream and has 16 sums in its registers. Held by linear/panel_weight.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trestle {

/// kBf16: the values. kInt8 and kInt4: codes with a scale, fp16, for each row and group of 32
/// columns: 8.5 and 4.5 bits a value, as GGUF's Q8_0 and Q4_0 have. Values are scale * code, of
/// int8 -127 .. 127, of int4 -8 .. 7.
enum class PanelForm { kBf16, kInt8, kInt4 };

constexpr int64_t kPanelRows = 16;
constexpr int64_t kPanelGroup = 32;
/// Of a group's rows.
constexpr int64_t kScaleBytes = 2 * kPanelRows;

/// Rows and columns of the matrix; behind them panels hold zeros.
struct PanelShape {
  PanelForm form = PanelForm::kBf16;
  int64_t rows = 0, columns = 0;

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t groups() const { return (columns + kPanelGroup - 1) / kPanelGroup; }
  int64_t padded_columns() const { return groups() * kPanelGroup; }
  /// A group of a panel. kBf16: 16 times 2 columns of the 16 rows. kInt8: 8 times 4 columns of the
  /// 16 rows, code + 128. kInt4: 4 times 8 columns of the 16 rows, code + 8, of a byte the low half
  /// 4 columns and the high half the next 4. Both: the rows' scales behind them.
  int64_t group_bytes() const {
    switch (form) {
      case PanelForm::kBf16:
        return kPanelRows * kPanelGroup * 2;
      case PanelForm::kInt8:
        return kPanelRows * kPanelGroup + kScaleBytes;
      case PanelForm::kInt4:
        return kPanelRows * kPanelGroup / 2 + kScaleBytes;
    }
    return 0;
  }
  int64_t panel_bytes() const { return groups() * group_bytes(); }
  int64_t bytes() const { return panels() * panel_bytes(); }
};

/// Writes a panel from `rows` (at most 16) rows of bf16 [rows, columns]. int8: the scale is the
/// largest magnitude / 127. int4: of the scale that gives the largest magnitude the code -8, and
/// the one that fits its codes best (least squares), that with the smaller error. Returns whether
/// codes can say the values: false where one is no finite number, or too large for its scale.
bool pack_panel(const PanelShape& shape, const uint16_t* values, int64_t rows, std::byte* panel);

/// Whether every scale of `shape`'s panels is a finite number; true of values.
bool has_finite_scales(const PanelShape& shape, const std::byte* panels);

/// The values of a panel's first `rows` rows and of columns [first, last), first a multiple of
/// kPanelGroup, rounded to bf16: to `values`, `stride` values from row to row.
void unpack_panel(const PanelShape& shape, const std::byte* panel, int64_t rows, int64_t first,
                  int64_t last, uint16_t* values, int64_t stride);

}  // namespace trestle
