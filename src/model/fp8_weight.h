// A frozen projection's matrix in FP8 (e4m3), as a checkpoint has it, and the product with it: what
// adapters on an FP8 base stand on. Held by Linear, filled by bridge/load.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/tiles.h"

namespace trestle {

namespace cuda {
struct Kernels;
}

/// Which scale belongs to which of a matrix' values: values[grid_row[row]][column / columns]. One
/// scale for all, one a row, one a block, and matrices of several of these one under the other.
struct Fp8Scales {
  /// fp32 [grid rows, grid columns], as the file has them.
  at::Tensor values;
  /// int32 [rows].
  at::Tensor grid_row;
  /// Of a row, that share a scale; those of the last may be fewer.
  int64_t columns = 0;
};

/// A matrix [rows, columns]: each value is its code's times its scale, rounded to bf16, which is
/// what reading the checkpoint into a dense model gives (formats/fp8.h), to the bit. The codes 0x7f
/// and 0xff are NaN there and here.
class Fp8Weight {
 public:
  /// `codes` float8_e4m3fn [rows, columns], contiguous, on the scales' device.
  Fp8Weight(at::Tensor codes, Fp8Scales scales);
  explicit Fp8Weight(WeightParts parts);
  WeightParts parts() const;
  Fp8Weight to(at::Device device) const;

  /// The values of some rows and columns in fp32 or bf16.
  at::Tensor dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const;
  at::Tensor dense(at::ScalarType dtype) const { return dense({0, rows()}, {0, columns()}, dtype); }
  /// The same by libtorch's operators: what a device takes that has neither a loop of its own nor
  /// kernels.
  at::Tensor dense_by_operators(IndexRange rows, IndexRange columns, at::ScalarType dtype) const;

  int64_t rows() const { return codes_.size(0); }
  int64_t columns() const { return codes_.size(1); }
  const at::Tensor& codes() const { return codes_; }
  const Fp8Scales& scales() const { return scales_; }

 private:
  at::Tensor dense_by(const cuda::Kernels& kernels, IndexRange rows, IndexRange columns,
                      at::ScalarType dtype) const;

  at::Tensor codes_;
  Fp8Scales scales_;
};

/// x W^T: [T, columns] -> [T, rows], in x's dtype. Forward and backward make W's values a tile at a
/// time and keep none; W itself gets no gradient.
at::Tensor fp8_linear(const at::Tensor& x, const Fp8Weight& weight);

}  // namespace trestle
