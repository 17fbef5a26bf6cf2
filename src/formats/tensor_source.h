// A set of named tensors that lies on disk: what safetensors files and Megatron directories have in
// common. Conversions read it in blocks of rows, so that memory does not grow with the tensors;
// loaders read whole tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "linear/fp8_weight.h"
#include "linear/panel_weight.h"

namespace trestle {

/// A type whose elements share bytes, for which torch has none: listed, checked, hashed and
/// compared, never a weight.
struct PackedType {
  std::string_view name;  // "F4"
  int64_t bits;
  /// Of each code, where it is defined which bits of which byte are an element's; else empty.
  std::span<const double> values;
};

struct TensorInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  /// Of the format's table where the elements are packed, and `dtype` is then Byte; else null.
  const PackedType* packed = nullptr;
  bool operator==(const TensorInfo&) const = default;

  /// Size of the leading axis; a tensor without axes has one row. A packed one, whose rows may end
  /// within a byte, has a row a byte.
  int64_t rows() const;
  uint64_t row_bytes() const;
};

/// Rows [first, first + count) of a tensor's leading axis.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Every tensor by name; known without reading any data.
  virtual const std::map<std::string, TensorInfo>& tensors() const = 0;
  /// A contiguous CPU tensor. It may view mapped memory: callers do not write to it.
  /// Throws UserError naming file and tensor when the data cannot be read.
  virtual at::Tensor read(const std::string& name) const = 0;
  /// Copies a range of rows to `out`, which has room for them: the same bytes as in read().
  /// Sources that can do so without making the whole tensor override it. Throws as read() does.
  virtual void read_rows(const std::string& name, RowRange range, std::byte* out) const;
  /// Of a matrix that is stored in FP8, whose values read() gives: how its codes are scaled. Throws
  /// as read() does, and where a scale is no finite number.
  virtual std::optional<Fp8Scales> fp8_scales(const std::string& name) const;
  /// Of the same matrix: the codes of a range of rows, a byte each.
  virtual void read_fp8_rows(const std::string& name, RowRange range, std::byte* out) const;
  /// Of a matrix that is stored in panels, whose values read() gives: as it is stored, which may
  /// view mapped memory too.
  virtual std::optional<PanelWeight> panels(const std::string& name) const;
};

/// The same bytes as read_rows(), read by libtorch's threads side by side: one thread's copies out
/// of the page cache are slower than a card's bus. Of sources of an opened checkpoint, which bear
/// it.
void read_rows_together(const TensorSource& source, const std::string& name, RowRange range,
                        std::byte* out);
/// Rows of a tensor as a tensor of their own; a tensor without axes has one row.
at::Tensor read_range(const TensorSource& source, const std::string& name, RowRange range);
/// All of them.
at::Tensor read_all_rows(const TensorSource& source, const std::string& name);
/// The values of elements of a packed type that lie in whole bytes; the type has them.
at::Tensor unpacked(const PackedType& type, std::span<const std::byte> bytes);

/// Calls `fn` with one range of rows after another, of `block` bytes each or one row, until all are
/// through: what is read so takes no more memory the larger the tensor is.
template <class Function>
void for_row_blocks(const TensorInfo& info, const Function& fn, uint64_t block = 16 << 20) {
  const auto step =
      static_cast<int64_t>(std::max<uint64_t>(block / std::max<uint64_t>(info.row_bytes(), 1), 1));
  for (int64_t first = 0; first < info.rows(); first += step) {
    fn(RowRange{first, std::min(step, info.rows() - first)});
  }
}

}  // namespace trestle
