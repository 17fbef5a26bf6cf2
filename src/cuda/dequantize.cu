// A thread makes 16 bytes of values; codes are read once: 2.6 bytes a value in bf16 from NF4, 3.1
// from 8 bits, 3 from FP8. libtorch has no NF4; from the others it goes by way of fp32: 15 and
// more.
#include <type_traits>

#include "cuda/dequantize.h"
#include "cuda/quantized_formats.cuh"

namespace trestle::cuda {

namespace {

constexpr int kThreads = 256;

template <class T, int kWidth, class Form>
__global__ void __launch_bounds__(kThreads) expand(Tile tile, Form form) {
  __shared__ Nf4Table table;
  if constexpr (Form::kCodesPerByte == 2) fill(table);
  const int64_t packs = tile.columns / kWidth;  // of a row
  const int64_t pack = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = pack / packs, column = (pack - row * packs) * kWidth;
  if (row >= tile.rows) return;
  float values[kWidth];
  form.read(table, row, column, values);
  Pack<T, kWidth> out;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out.values[i] = rounded<T>(values[i]);
  store<kWidth>(static_cast<T*>(tile.values) + row * tile.columns + column, out);
}

template <class Form>
int dequantize(const Tile& tile, const Form& form, Stream stream) {
  return with_type(tile.type, [&](auto t) {
    using T = decltype(t);
    const auto launched = [&](auto width) {
      const int64_t blocks = ceil_div(tile.rows * (tile.columns / width), int64_t{kThreads});
      return launch(expand<T, width, Form>, blocks, kThreads, 0, stream, tile, form);
    };
    constexpr int kWidth = kFullWidth<T>;
    if (is_aligned(tile.values) && tile.columns % kWidth == 0 && has_vectors(form, kWidth)) {
      return launched(std::integral_constant<int, kWidth>());
    }
    return launched(std::integral_constant<int, 1>());
  });
}

}  // namespace

int dequantize_nf4(const Tile& tile, const QuantizedCodes& codes, Stream stream) {
  return dequantize(tile, Nf4Form{codes}, stream);
}

int dequantize_int8(const Tile& tile, const QuantizedCodes& codes, Stream stream) {
  return dequantize(tile, Int8Form{codes}, stream);
}

int dequantize_fp8(const Tile& tile, const Fp8Codes& codes, Stream stream) {
  return dequantize(tile, Fp8Form{codes}, stream);
}

}  // namespace trestle::cuda
