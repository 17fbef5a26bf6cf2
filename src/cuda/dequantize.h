// Tiles of frozen weights on a card, from codes to values: linear/quantized.h's and
// linear/fp8_weight.h's dense(), to the bit.
#pragma once

#include "cuda/call.h"
#include "cuda/quantized_codes.h"

namespace trestle::cuda {

/// values [rows, columns].
struct Tile {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0;
  void* values = nullptr;
};
int dequantize_nf4(const Tile& tile, const QuantizedCodes& codes, Stream stream);
int dequantize_int8(const Tile& tile, const QuantizedCodes& codes, Stream stream);
int dequantize_fp8(const Tile& tile, const Fp8Codes& codes, Stream stream);

}  // namespace trestle::cuda
