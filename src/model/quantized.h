// A frozen projection's matrix in 4 or 8 bits, and the product with it: what a QLoRA base is made
// of. Held by Linear, filled by bridge/load.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/tiles.h"

namespace trestle {

namespace cuda {
struct Kernels;
}

/// A matrix [rows, columns] in blocks of kBlock columns of one row, the last of a row perhaps
/// shorter, each with its largest magnitude `absmax`, fp32 [rows, blocks].
///
/// 4 bits: NF4 (Dettmers et al. 2023, QLoRA, section 3): the nearest of 16 levels, quantiles of a
/// normal distribution, times absmax. `codes` uint8 [rows, ceil(columns / 2)], the even column in
/// the high half. To the bit what bitsandbytes' quantize_4bit and dequantize_4bit make of each row.
/// 8 bits: code * absmax / 127. `codes` int8 [rows, columns]. To the bit what bitsandbytes'
/// int8_vectorwise_quant and _dequant make of each block.
class QuantizedWeight {
 public:
  static constexpr int64_t kBlock = 64;

  /// All zeros. `bits` is 4 or 8.
  QuantizedWeight(int64_t rows, int64_t columns, int64_t bits, at::Device device = at::kCPU);
  explicit QuantizedWeight(WeightParts parts);
  WeightParts parts() const { return {{codes_, absmax_, levels_}, columns_}; }
  /// Takes the values of one of the same shape and bits, wherever that is.
  void copy_from(const QuantizedWeight& other);

  /// Quantises [n, columns] fp32 into rows [first, first + n), all of them on the CPU. A block with
  /// a value that is no finite number has NaN as its absmax.
  void set_rows(int64_t first, const at::Tensor& values);

  /// The values of some rows and columns in fp32 or bf16, rounded once; columns.first is a multiple
  /// of kBlock.
  at::Tensor dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const;
  at::Tensor dense(at::ScalarType dtype) const { return dense({0, rows()}, {0, columns_}, dtype); }
  /// The same by libtorch's operators: what a device takes that has neither a loop of its own nor
  /// kernels.
  at::Tensor dense_by_operators(IndexRange rows, IndexRange columns, at::ScalarType dtype) const;

  int64_t rows() const { return codes_.size(0); }
  int64_t columns() const { return columns_; }
  int64_t bits() const { return codes_.scalar_type() == at::kByte ? 4 : 8; }
  const at::Tensor& codes() const { return codes_; }
  const at::Tensor& absmax() const { return absmax_; }

 private:
  at::Tensor dense_by(const cuda::Kernels& kernels, IndexRange rows, IndexRange columns,
                      at::ScalarType dtype) const;

  at::Tensor codes_, absmax_;
  /// NF4's levels, fp32 [16], where the codes are and their bits are 4.
  at::Tensor levels_;
  int64_t columns_;
};

/// x W^T: [T, columns] -> [T, rows], in x's dtype. Forward and backward make W's values a tile at a
/// time and keep none; W itself gets no gradient.
at::Tensor quantized_linear(const at::Tensor& x, const QuantizedWeight& weight);

}  // namespace trestle
