// How codes of frozen weights become values: linear/quantized.h and linear/fp8_weight.h on a card.
// Each form gives kWidth values of a row from `column` on, a multiple of kWidth (which divides
// kQuantizedBlock). For .cu files.
#pragma once

#include "cuda/device.cuh"
#include "cuda/quantized_codes.h"

namespace trestle::cuda {

using Nf4Table = Shared<float, kNf4Levels>;

/// For all threads of a block, before the first reads a value. Lookups of 16 neighbours have no
/// bank conflicts.
__device__ __forceinline__ void fill(Nf4Table& table) {
  if (threadIdx.x < kNf4Levels) table[threadIdx.x] = nf4_level(static_cast<int>(threadIdx.x));
  __syncthreads();
}

/// level * absmax; the even column in the high half of a byte.
struct Nf4Form {
  static constexpr int kCodesPerByte = 2;
  QuantizedCodes from;

  template <int kWidth>
  __device__ void read(Nf4Table& table, int64_t row, int64_t column,
                       float (&values)[kWidth]) const {
    const float absmax = from.absmax[row * from.absmax_stride + column / kQuantizedBlock];
    const auto codes = load<(kWidth + 1) / 2>(static_cast<const uint8_t*>(from.codes) +
                                              row * from.code_stride + column / 2);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const bool is_high = kWidth == 1 ? column % 2 == 0 : i % 2 == 0;
      const int byte = codes.values[i / 2];
      values[i] = table[is_high ? byte >> 4 : byte & 15] * absmax;
    }
  }
};

/// code * absmax / 127.
struct Int8Form {
  static constexpr int kCodesPerByte = 1;
  QuantizedCodes from;

  template <int kWidth>
  __device__ void read(Nf4Table&, int64_t row, int64_t column, float (&values)[kWidth]) const {
    constexpr float k127th = 1.0F / 127;
    const float absmax = from.absmax[row * from.absmax_stride + column / kQuantizedBlock];
    const auto codes =
        load<kWidth>(static_cast<const int8_t*>(from.codes) + row * from.code_stride + column);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[i] = static_cast<float>(codes.values[i]) * absmax * k127th;
    }
  }
};

/// e4m3 in fp32: its bits, moved to fp32's places, are the value times 2^-120.
__device__ __forceinline__ float fp8_value(uint8_t code) {
  const uint32_t sign = (code & 0x80U) << 24, rest = code & 0x7FU;
  if (rest == 0x7F) return __uint_as_float(sign | 0x7FC00000U);
  return __uint_as_float(sign | rest << 20) * 0x1p120F;
}

/// code * scale, rounded to bf16, as reading the checkpoint into a dense model rounds it.
struct Fp8Form {
  static constexpr int kCodesPerByte = 1;
  Fp8Codes from;

  template <int kWidth>
  __device__ void read(Nf4Table&, int64_t row, int64_t column, float (&values)[kWidth]) const {
    const float* scales = from.scales + from.grid_row[row] * from.grid_columns;
    const auto codes =
        load<kWidth>(static_cast<const uint8_t*>(from.codes) + row * from.code_stride + column);
    const int64_t first = from.first_column + column;
    const int64_t block = first / from.block_columns;
    const bool share = first + kWidth <= (block + 1) * from.block_columns;
    float scale = scales[block];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (!share) scale = scales[(first + i) / from.block_columns];
      values[i] = to_float(rounded<__nv_bfloat16>(fp8_value(codes.values[i]) * scale));
    }
  }
};

/// Whether `width` codes of any row may be read at once.
template <class Form>
bool has_vectors(const Form& form, int width) {
  const int bytes = width / Form::kCodesPerByte;
  return reinterpret_cast<uintptr_t>(form.from.codes) % bytes == 0 &&
         form.from.code_stride % bytes == 0;
}

}  // namespace trestle::cuda
