// Products of a few rows with a weight on a card, as decoding asks for them: bound by reading the
// weight, which is held as it is or in codes.
#pragma once

#include "cuda/call.h"
#include "cuda/quantized_codes.h"

namespace trestle::cuda {

/// More rows of x are refused (cudaErrorInvalidValue): a matrix product is faster.
constexpr int64_t kMostProductRows = 8;

/// x [batch, columns], W [rows, columns] -> y [batch, rows] = scale x W^T, x and y of `type`;
/// summed in fp32 and rounded once. With `add` the products are added to y: a projection and its
/// adapter are y = x W^T, h = x A^T and y += s h B^T.
struct RowProduct {
  Type type = Type::kFloat;
  int64_t batch = 0, rows = 0, columns = 0;
  double scale = 1;
  bool add = false;
  const void* x = nullptr;
  void* y = nullptr;
};
/// W of x's type, its rows beside each other.
int row_product(const RowProduct& args, const void* weight, Stream stream);
int row_product_nf4(const RowProduct& args, const QuantizedCodes& weight, Stream stream);
int row_product_int8(const RowProduct& args, const QuantizedCodes& weight, Stream stream);
int row_product_fp8(const RowProduct& args, const Fp8Codes& weight, Stream stream);

}  // namespace trestle::cuda
