// Where the codes of a frozen weight lie on a card: linear/quantized.h's and linear/fp8_weight.h's
// matrices, or tiles of them, and NF4's levels. What dequantize.h and row_product.h take.
#pragma once

#include <cstdint>

namespace trestle::cuda {

/// Columns of a row that share a scale.
constexpr int64_t kQuantizedBlock = 64;

#ifdef __CUDACC__
#define TRESTLE_HOST_DEVICE __host__ __device__
#else
#define TRESTLE_HOST_DEVICE
#endif

/// QLoRA's levels (appendix E, with the digits of bitsandbytes), on a card and on the CPU.
constexpr int kNf4Levels = 16;
TRESTLE_HOST_DEVICE constexpr float nf4_level(int code) {
  constexpr float kLevels[kNf4Levels] = {
      -1.0F,
      -0.6961928009986877F,
      -0.5250730514526367F,
      -0.39491748809814453F,
      -0.28444138169288635F,
      -0.18477343022823334F,
      -0.09105003625154495F,
      0.0F,
      0.07958029955625534F,
      0.16093020141124725F,
      0.24611230194568634F,
      0.33791524171829224F,
      0.44070982933044434F,
      0.5626170039176941F,
      0.7229568362236023F,
      1.0F,
  };
  return kLevels[code];
}

/// NF4, two codes a byte, or 8 bits. Pointers are to the first row and the first column, a multiple
/// of kQuantizedBlock; rows are `code_stride` bytes and `absmax_stride` numbers apart.
struct QuantizedCodes {
  const void* codes = nullptr;
  const float* absmax = nullptr;
  int64_t code_stride = 0, absmax_stride = 0;
};

/// FP8 (e4m3). codes point to the first row and column, grid_row to the first row; the value in
/// column j has the scale scales[grid_row[row] * grid_columns + (first_column + j) /
/// block_columns].
struct Fp8Codes {
  const void* codes = nullptr;
  const float* scales = nullptr;
  const int32_t* grid_row = nullptr;
  int64_t code_stride = 0, grid_columns = 1, block_columns = 1, first_column = 0;
};

}  // namespace trestle::cuda
