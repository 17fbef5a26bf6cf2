// A frozen matrix as decoding on a CPU reads it, in 16, 8.5 or 4.5 bits a value, and the product
// with it. Held by Linear and by the decoder for its vocabulary, filled by bridge/load.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "cpu/weight_panels.h"
#include "linear/tiles.h"

namespace trestle {

/// A matrix [rows, columns] in panels (cpu/weight_panels.h), on the CPU.
class PanelWeight {
 public:
  /// Uninitialised.
  PanelWeight(int64_t rows, int64_t columns, PanelForm form);
  /// Of bytes that are there: uint8 [shape.bytes()].
  PanelWeight(at::Tensor panels, const PanelShape& shape);
  explicit PanelWeight(const WeightParts& parts);
  WeightParts parts() const;

  /// Packs [n, columns] of bf16 or fp32, rounded to bf16, into rows [first, first + n); first is a
  /// multiple of kPanelRows, and n too where these are not the last. Returns whether codes can say
  /// them: false where pack_panel() says so.
  bool set_rows(int64_t first, const at::Tensor& values);

  /// The values of some rows and columns in fp32 or bf16, of codes rounded to bf16; columns.first
  /// is a multiple of kPanelGroup.
  at::Tensor dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const;
  at::Tensor dense(at::ScalarType dtype) const { return dense({0, rows()}, {0, columns()}, dtype); }

  /// The rows of `ids`, int64 [T]: bf16 [T, columns].
  at::Tensor rows_at(const at::Tensor& ids_T) const;

  int64_t rows() const { return shape_.rows; }
  int64_t columns() const { return shape_.columns; }
  PanelForm form() const { return shape_.form; }
  const PanelShape& shape() const { return shape_; }
  /// uint8 [shape().bytes()].
  const at::Tensor& panels() const { return panels_; }

 private:
  PanelShape shape_;
  at::Tensor panels_;
};

/// x W^T: [T, columns] -> [T, rows], in x's dtype (times_panels). W gets no gradient; x's is made
/// from dense tiles.
at::Tensor panel_linear(const at::Tensor& x, const PanelWeight& weight);

}  // namespace trestle
