// Compiled with -ffp-contract=fast: sums of products are fused where the processor can.
#include "cpu/row_loops.h"

#include <ATen/Version.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

namespace trestle {

namespace {

#define TRESTLE_INLINE inline __attribute__((always_inline))

TRESTLE_INLINE float load(float value) { return value; }
TRESTLE_INLINE float load(uint16_t bf16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16);
}

// To the nearest, ties to even; a NaN stays one.
TRESTLE_INLINE uint16_t bits_of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : 0x7FC0);
}
TRESTLE_INLINE void store(float value, float* to) { *to = value; }
TRESTLE_INLINE void store(float value, uint16_t* to) { *to = bits_of(value); }

template <class Value>
TRESTLE_INLINE float rounded(float value) {
  if constexpr (sizeof(Value) == sizeof(float)) {
    return value;
  } else {
    return load(bits_of(value));
  }
}

// e^x to 2 units in the last place (Cephes' expf): x = n ln 2 + r, a polynomial in r, times 2^n.
TRESTLE_INLINE float exponential(float x) {
  const float bounded = std::min(std::max(x, -87.0F), 88.0F);
  const float n = std::floor(bounded * 1.44269504F + 0.5F);
  const float r = bounded - n * 0.693359375F + n * 2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * r + 1.3981999507e-3F;
  sum = sum * r + 8.3334519073e-3F;
  sum = sum * r + 4.1665795894e-2F;
  sum = sum * r + 1.6666665459e-1F;
  sum = sum * r + 5.0000001201e-1F;
  const float value = sum * r * r + r + 1;
  return value * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

constexpr int64_t kSums = 16;

template <class Value>
TRESTLE_INLINE float rms_norm(const Value* x, const Value* weight, int64_t columns, float eps,
                              Value* y) {
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= columns; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += load(x[i + j]) * load(x[i + j]);
  }
  float sum = 0;
  for (const float each : sums) sum += each;
  for (; i < columns; ++i) sum += load(x[i]) * load(x[i]);
  const float inverse = 1 / std::sqrt(sum / static_cast<float>(columns) + eps);
  for (int64_t k = 0; k < columns; ++k) {
    store(load(weight[k]) * rounded<Value>(load(x[k]) * inverse), y + k);
  }
  return inverse;
}

template <class Value>
TRESTLE_INLINE void rms_norm_backward(const Value* x, const Value* weight, const Value* dy,
                                      float inverse, int64_t columns, Value* dx, float* dw) {
  const auto normed = [&](int64_t k) { return rounded<Value>(load(dy[k]) * load(weight[k])); };
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= columns; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += normed(i + j) * load(x[i + j]);
  }
  float sum = 0;
  for (const float each : sums) sum += each;
  for (; i < columns; ++i) sum += normed(i) * load(x[i]);
  const float along = sum / static_cast<float>(columns) * inverse * inverse;
  for (int64_t k = 0; k < columns; ++k) {
    store(inverse * (normed(k) - load(x[k]) * along), dx + k);
  }
  if (dw == nullptr) return;
  for (int64_t k = 0; k < columns; ++k) {
    dw[k] += load(dy[k]) * rounded<Value>(load(x[k]) * inverse);
  }
}

template <class Value>
TRESTLE_INLINE void swiglu(const Value* gate, const Value* up, int64_t columns, Value* y) {
  for (int64_t k = 0; k < columns; ++k) {
    const float x = load(gate[k]);
    store(rounded<Value>(x / (1 + exponential(-x))) * load(up[k]), y + k);
  }
}

template <class Value>
TRESTLE_INLINE void swiglu_backward(const Value* gate, const Value* up, const Value* dy,
                                    int64_t columns, Value* dgate, Value* dup) {
  for (int64_t k = 0; k < columns; ++k) {
    const float x = load(gate[k]), above = load(dy[k]);
    const float share = 1 / (1 + exponential(-x));
    const float inner = rounded<Value>(above * load(up[k]));
    store(above * rounded<Value>(x * share), dup + k);
    store(inner * share * (1 + x * (1 - share)), dgate + k);
  }
}

template <class Value>
TRESTLE_INLINE void rotate(const Value* x, const Value* cos, const Value* sin, const Value* scale,
                           int64_t size, Value* y) {
  const int64_t half = size / 2;
  const float by = scale == nullptr ? 1 : load(*scale);
  const auto turned = [&](float own, float other, int64_t k) {
    const float sum =
        rounded<Value>(rounded<Value>(own * load(cos[k])) + rounded<Value>(other * load(sin[k])));
    return sum * by;
  };
  for (int64_t k = 0; k < half; ++k) store(turned(load(x[k]), -load(x[k + half]), k), y + k);
  for (int64_t k = half; k < size; ++k) store(turned(load(x[k]), load(x[k - half]), k), y + k);
}

template <class Value>
TRESTLE_INLINE void rotate_backward(const Value* dy, const Value* cos, const Value* sin,
                                    const Value* scale, int64_t size, Value* dx) {
  const int64_t half = size / 2;
  const float by = scale == nullptr ? 1 : load(*scale);
  const auto above = [&](int64_t k) { return rounded<Value>(load(dy[k]) * by); };
  const auto by_sine = [&](int64_t k) { return rounded<Value>(above(k) * load(sin[k])); };
  const auto by_cosine = [&](int64_t k) { return rounded<Value>(above(k) * load(cos[k])); };
  for (int64_t k = 0; k < half; ++k) store(by_cosine(k) + by_sine(k + half), dx + k);
  for (int64_t k = half; k < size; ++k) store(by_cosine(k) - by_sine(k - half), dx + k);
}

// Blocks whose largest value is found first: the place is then looked for in one of them.
constexpr int64_t kArgmaxBlock = 1024;

template <class Value>
TRESTLE_INLINE float largest_of(const Value* x, int64_t count, float& nan) {
  float most[kSums], sums[kSums] = {};
  for (float& each : most) each = -std::numeric_limits<float>::infinity();
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) {
      const float value = load(x[i + j]);
      most[j] = most[j] < value ? value : most[j];
      sums[j] += value == value ? 0.0F : value;
    }
  }
  float largest = most[0];
  for (const float each : most) largest = largest < each ? each : largest;
  for (const float each : sums) nan += each;
  for (; i < count; ++i) {
    const float value = load(x[i]);
    largest = largest < value ? value : largest;
    nan += value == value ? 0.0F : value;
  }
  return largest;
}

template <class Value>
TRESTLE_INLINE int64_t argmax(const Value* x, int64_t columns, float* largest) {
  float best = -std::numeric_limits<float>::infinity(), nan = 0;
  int64_t block = 0;
  for (int64_t first = 0; first < columns; first += kArgmaxBlock) {
    const float of_block = largest_of(x + first, std::min(kArgmaxBlock, columns - first), nan);
    if (of_block > best) {
      best = of_block;
      block = first;
    }
  }
  *largest = best + nan;
  while (block + 1 < columns && load(x[block]) != best) ++block;
  return block;
}

// Keys at a time: their scores and values stay in the first cache.
constexpr int64_t kBlock = 32;

// In an order that vectors keep.
TRESTLE_INLINE float sum_of(const float* block) {
  float sums[kSums] = {};
  for (int64_t k = 0; k < kBlock; k += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += block[k + j];
  }
  float sum = 0;
  for (const float each : sums) sum += each;
  return sum;
}

TRESTLE_INLINE float largest_of(const float* block) {
  float most[kSums];
  for (int64_t j = 0; j < kSums; ++j) most[j] = block[j];
  for (int64_t k = kSums; k < kBlock; k += kSums) {
    for (int64_t j = 0; j < kSums; ++j) most[j] = most[j] < block[k + j] ? block[k + j] : most[j];
  }
  float largest = most[0];
  for (const float each : most) largest = largest < each ? each : largest;
  return largest;
}

template <class Value>
TRESTLE_INLINE float dot(const float* q, const Value* key, int64_t size) {
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= size; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += q[i + j] * load(key[i + j]);
  }
  float sum = 0;
  for (; i < size; ++i) sum += q[i] * load(key[i]);
  for (int64_t width = kSums / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sum + sums[0];
}

// A row's largest score so far, the sum of its weights and its weighted values (Milakov and
// Gimelshein 2018): what came before is scaled where a larger score comes.
template <class Value>
TRESTLE_INLINE void attend(const float* q, int64_t queries, const int64_t* limits,
                           const Value* keys, const Value* values, int64_t size, float* work,
                           Value* y) {
  float* const sums = work;                       // [queries, size]
  float* const largest = sums + queries * size;   // [queries]
  float* const totals = largest + queries;        // [queries]
  float* const scores = totals + queries;         // [queries, kBlock]
  float* const wide = scores + queries * kBlock;  // [size]
  std::fill_n(sums, queries * size, 0.0F);
  std::fill_n(largest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(totals, queries, 0.0F);
  const int64_t most = *std::max_element(limits, limits + queries);
  for (int64_t first = 0; first < most; first += kBlock) {
    const int64_t count = std::min(kBlock, most - first);
    for (int64_t k = 0; k < count; ++k) {
      const Value* key = keys + (first + k) * size;
      for (int64_t i = 0; i < queries; ++i) scores[i * kBlock + k] = dot(q + i * size, key, size);
    }
    for (int64_t i = 0; i < queries; ++i) {
      float* const row = scores + i * kBlock;
      const int64_t seen = std::clamp<int64_t>(limits[i] - first, 0, count);
      for (int64_t k = seen; k < kBlock; ++k) row[k] = -std::numeric_limits<float>::infinity();
      const float top = std::max(largest[i], largest_of(row));
      if (top > largest[i]) {
        const float fade = totals[i] == 0 ? 0 : exponential(largest[i] - top);
        totals[i] *= fade;
        for (int64_t d = 0; d < size; ++d) sums[i * size + d] *= fade;
        largest[i] = top;
      }
      for (int64_t k = 0; k < kBlock; ++k) row[k] = exponential(row[k] - top);
      for (int64_t k = seen; k < kBlock; ++k) row[k] = 0;
      totals[i] += sum_of(row);
    }
    for (int64_t k = 0; k < count; ++k) {
      const Value* value = values + (first + k) * size;
      for (int64_t d = 0; d < size; ++d) wide[d] = load(value[d]);
      for (int64_t i = 0; i < queries; ++i) {
        const float weight = scores[i * kBlock + k];
        float* const sum = sums + i * size;
        for (int64_t d = 0; d < size; ++d) sum[d] += weight * wide[d];
      }
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    const float inverse = 1 / totals[i];
    for (int64_t d = 0; d < size; ++d) store(sums[i * size + d] * inverse, y + i * size + d);
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): names of types and templates
#define TRESTLE_ROW_LOOPS_OF(target, path, Value)                                               \
  target float path##_rms_norm(const Value* x, const Value* weight, int64_t columns, float eps, \
                               Value* y) {                                                      \
    return rms_norm(x, weight, columns, eps, y);                                                \
  }                                                                                             \
  target void path##_rms_norm_backward(const Value* x, const Value* weight, const Value* dy,    \
                                       float r, int64_t columns, Value* dx, float* dw) {        \
    rms_norm_backward(x, weight, dy, r, columns, dx, dw);                                       \
  }                                                                                             \
  target void path##_swiglu_backward(const Value* gate, const Value* up, const Value* dy,       \
                                     int64_t columns, Value* dgate, Value* dup) {               \
    swiglu_backward(gate, up, dy, columns, dgate, dup);                                         \
  }                                                                                             \
  target void path##_rotate_backward(const Value* dy, const Value* cos, const Value* sin,       \
                                     const Value* scale, int64_t size, Value* dx) {             \
    rotate_backward(dy, cos, sin, scale, size, dx);                                             \
  }                                                                                             \
  target void path##_swiglu(const Value* gate, const Value* up, int64_t columns, Value* y) {    \
    swiglu(gate, up, columns, y);                                                               \
  }                                                                                             \
  target void path##_rotate(const Value* x, const Value* cos, const Value* sin,                 \
                            const Value* scale, int64_t size, Value* y) {                       \
    rotate(x, cos, sin, scale, size, y);                                                        \
  }                                                                                             \
  target int64_t path##_argmax(const Value* x, int64_t columns, float* largest) {               \
    return argmax(x, columns, largest);                                                         \
  }                                                                                             \
  target void path##_attend(const float* q, int64_t queries, const int64_t* limits,             \
                            const Value* keys, const Value* values, int64_t size, float* work,  \
                            Value* y) {                                                         \
    attend(q, queries, limits, keys, values, size, work, y);                                    \
  }
#define TRESTLE_ROW_LOOPS_TABLE(path)                                                 \
  {                                                                                   \
    path##_rms_norm, path##_rms_norm_backward, path##_swiglu, path##_swiglu_backward, \
        path##_rotate, path##_rotate_backward, path##_argmax, path##_attend           \
  }
#define TRESTLE_ROW_LOOPS(target, path)        \
  TRESTLE_ROW_LOOPS_OF(target, path, uint16_t) \
  TRESTLE_ROW_LOOPS_OF(target, path, float)    \
  constexpr RowLoops path = {TRESTLE_ROW_LOOPS_TABLE(path), TRESTLE_ROW_LOOPS_TABLE(path)};

// NOLINTEND(bugprone-macro-parentheses)
#ifdef __x86_64__
TRESTLE_ROW_LOOPS(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), kAvx512)
TRESTLE_ROW_LOOPS(__attribute__((target("avx2,fma"))), kAvx2)
#endif
TRESTLE_ROW_LOOPS(, kPlain)

}  // namespace

int64_t attention_work(int64_t queries, int64_t size) {
  return queries * (size + 2 + kBlock) + size;
}

const RowLoops* row_loops(const char* capability) {
  const std::string_view name = capability;
#ifdef __x86_64__
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name == "AVX2") return has_avx2 ? &kAvx2 : nullptr;
  if (name == "AVX512") {
    return has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
               ? &kAvx512
               : nullptr;
  }
#else
  if (name.starts_with("AVX")) return nullptr;
#endif
  return &kPlain;
}

const RowLoops& row_loops_here() {
  static const RowLoops& kHere = []() -> const RowLoops& {
    const std::string capability = at::get_cpu_capability();
    const RowLoops* loops = row_loops(capability.c_str());
    return loops == nullptr ? kPlain : *loops;
  }();
  return kHere;
}

}  // namespace trestle
