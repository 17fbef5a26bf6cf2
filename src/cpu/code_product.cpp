#include "cpu/code_product.h"

#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "cuda/quantized_codes.h"

namespace trestle {

namespace {

// Sums of a row, each of every 16th column: an order of sums that a compiler makes vectors of.
constexpr int64_t kSums = 16;
static_assert(kCodeBlock == cuda::kQuantizedBlock && kCodeBlock % kSums == 0);

#define TRESTLE_INLINE inline __attribute__((always_inline))

// Both levels of a byte.
using Nf4Pairs = std::array<std::array<float, 2>, 256>;
const Nf4Pairs& nf4_pairs() {
  static const Nf4Pairs pairs = [] {
    Nf4Pairs made{};
    for (int byte = 0; byte < 256; ++byte) {
      made[static_cast<size_t>(byte)] = {cuda::nf4_level(byte >> 4), cuda::nf4_level(byte & 15)};
    }
    return made;
  }();
  return pairs;
}

const std::array<float, 256>& fp8_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> made{};
    for (size_t code = 0; code < made.size(); ++code) {
      made[code] = c10::Float8_e4m3fn(static_cast<uint8_t>(code), c10::Float8_e4m3fn::from_bits());
    }
    return made;
  }();
  return values;
}

// To bf16's nearest, ties to even; NaN stays.
TRESTLE_INLINE float rounded_to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t kept = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
  return x == x ? std::bit_cast<float>(kept) : x;
}

// `count` codes of a row from `column` on, a multiple of kCodeBlock, to values without their scale,
// which is returned; 0 behind them.
TRESTLE_INLINE float read_nf4(const CodedRows& w, int64_t row, int64_t column, int64_t count,
                              float* values) {
  const Nf4Pairs& pairs = nf4_pairs();
  const uint8_t* codes = w.codes + row * ((w.columns + 1) / 2) + column / 2;
  const int64_t bytes = (count + 1) / 2;
  for (int64_t i = 0; i < bytes; ++i) std::memcpy(values + 2 * i, &pairs[codes[i]], 8);
  for (int64_t i = count; i < kCodeBlock; ++i) values[i] = 0;
  const int64_t blocks = (w.columns + kCodeBlock - 1) / kCodeBlock;
  return w.scales[row * blocks + column / kCodeBlock];
}

TRESTLE_INLINE float read_int8(const CodedRows& w, int64_t row, int64_t column, int64_t count,
                               float* values) {
  const auto* codes = reinterpret_cast<const int8_t*>(w.codes) + row * w.columns + column;
  if (count == kCodeBlock) {
    for (int64_t i = 0; i < kCodeBlock; ++i) values[i] = codes[i];
  } else {
    for (int64_t i = 0; i < kCodeBlock; ++i) values[i] = i < count ? codes[i] : 0;
  }
  const int64_t blocks = (w.columns + kCodeBlock - 1) / kCodeBlock;
  return w.scales[row * blocks + column / kCodeBlock] * (1.0F / 127.0F);
}

TRESTLE_INLINE float read_fp8(const CodedRows& w, int64_t row, int64_t column, int64_t count,
                              float* values) {
  const auto& table = fp8_values();
  const uint8_t* codes = w.codes + row * w.columns + column;
  const float* scales = w.scales + w.grid_row[row] * w.grid_columns;
  for (int64_t first = 0; first < count;) {
    const int64_t cell = (column + first) / w.block_columns;
    const int64_t end = std::min((cell + 1) * w.block_columns - column, count);
    for (int64_t i = first; i < end; ++i) values[i] = table[codes[i]];
    for (int64_t i = first; i < end; ++i) values[i] = rounded_to_bf16(values[i] * scales[cell]);
    first = end;
  }
  for (int64_t i = count; i < kCodeBlock; ++i) values[i] = 0;
  return 1;
}

template <CodedRows::Form kForm>
TRESTLE_INLINE float read(const CodedRows& w, int64_t row, int64_t column, int64_t count,
                          float* values) {
  if constexpr (kForm == CodedRows::Form::kNf4) return read_nf4(w, row, column, count, values);
  if constexpr (kForm == CodedRows::Form::kInt8) return read_int8(w, row, column, count, values);
  return read_fp8(w, row, column, count, values);
}

template <CodedRows::Form kForm, int kBatch>
TRESTLE_INLINE void product(const CodedRows& w, const float* x, int64_t first, int64_t last,
                            int64_t batch, float* y) {
  const int64_t stride = (w.columns + kCodeBlock - 1) / kCodeBlock * kCodeBlock;
  for (int64_t row = first; row < last; ++row) {
    float sums[kBatch][kSums] = {};
    for (int64_t column = 0; column < w.columns; column += kCodeBlock) {
      float values[kCodeBlock];
      const float scale =
          read<kForm>(w, row, column, std::min(kCodeBlock, w.columns - column), values);
      for (int b = 0; b < kBatch; ++b) {
        const float* from = x + (b < batch ? b : 0) * stride + column;
        float of_block[kSums] = {};
        for (int64_t i = 0; i < kCodeBlock; i += kSums) {
          for (int64_t j = 0; j < kSums; ++j) of_block[j] += values[i + j] * from[i + j];
        }
        for (int64_t j = 0; j < kSums; ++j) sums[b][j] += scale * of_block[j];
      }
    }
    for (int64_t b = 0; b < batch; ++b) {
      float sum = 0;
      for (const float each : sums[b]) sum += each;
      y[b * w.rows + row] = sum;
    }
  }
}

template <CodedRows::Form kForm>
TRESTLE_INLINE void of_batch(const CodedRows& w, const float* x, int64_t batch, int64_t first,
                             int64_t last, float* y) {
  if (batch == 1) return product<kForm, 1>(w, x, first, last, batch, y);
  if (batch <= 4) return product<kForm, 4>(w, x, first, last, batch, y);
  product<kForm, kMostCodeProductRows>(w, x, first, last, batch, y);
}

TRESTLE_INLINE void of_form(const CodedRows& w, const float* x, int64_t batch, int64_t first,
                            int64_t last, float* y) {
  switch (w.form) {
    case CodedRows::Form::kNf4:
      return of_batch<CodedRows::Form::kNf4>(w, x, batch, first, last, y);
    case CodedRows::Form::kInt8:
      return of_batch<CodedRows::Form::kInt8>(w, x, batch, first, last, y);
    case CodedRows::Form::kFp8:
      return of_batch<CodedRows::Form::kFp8>(w, x, batch, first, last, y);
  }
}

using Product = void (*)(const CodedRows&, const float*, int64_t, int64_t, int64_t, float*);

#define TRESTLE_CODE_PRODUCT(name)                                                          \
  void name(const CodedRows& w, const float* x, int64_t batch, int64_t first, int64_t last, \
            float* y) {                                                                     \
    of_form(w, x, batch, first, last, y);                                                   \
  }
#ifdef __x86_64__
__attribute__((target("avx2,fma"))) TRESTLE_CODE_PRODUCT(with_avx2);
#endif
TRESTLE_CODE_PRODUCT(plain);

Product product_of_this_processor() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return with_avx2;
#endif
  return plain;
}

}  // namespace

void code_product(const CodedRows& weight, const float* x, int64_t batch, int64_t first,
                  int64_t last, float* y) {
  static const Product kProduct = product_of_this_processor();
  kProduct(weight, x, batch, first, last, y);
}

}  // namespace trestle
