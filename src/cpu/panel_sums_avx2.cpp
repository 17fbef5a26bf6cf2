#include "cpu/panel_sums_of.h"

#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>

#define TRESTLE_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace trestle {

namespace {

constexpr int kAhead = 2048;
// 16 registers hold the sums of no more rows of x; a panel stays in the cache for the others.
constexpr int kMostAtATime = 4;

TRESTLE_AVX2 inline __m256i half_line(const std::byte* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_T0);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

TRESTLE_AVX2 inline __m256i everywhere(const void* four_bytes) {
  return _mm256_set1_epi32(*static_cast<const int*>(four_bytes));
}

TRESTLE_AVX2 inline __m256 even(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
TRESTLE_AVX2 inline __m256 odd(__m256i pairs) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000));
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
}

template <int kBatch>
TRESTLE_AVX2 inline __attribute__((always_inline)) void store_rows(const __m256 (&sums)[kBatch][2],
                                                                   int64_t first, float* y) {
#pragma GCC unroll 8
  for (int b = 0; b < kBatch; ++b) {
    _mm256_storeu_ps(y + (first + b) * kPanelRows, sums[b][0]);
    _mm256_storeu_ps(y + (first + b) * kPanelRows + 8, sums[b][1]);
  }
}

// One sum of each row of x and of the panel, column after column: wide_product's order.
template <int kBatch>
TRESTLE_AVX2 void bf16_rows(const std::byte* panel, const PanelInput& x, int64_t first, float* y) {
  __m256 sums[kBatch][2];
#pragma GCC unroll 8
  for (auto& each : sums) each[0] = each[1] = _mm256_setzero_ps();
  const int64_t columns = x.groups * kPanelGroup;
  const float* from = x.fp32 + first * columns;
  for (int64_t k = 0; k < columns; k += 2, panel += 64) {
    const __m256i lower = half_line(panel), upper = half_line(panel + 32);
    const __m256 weights[2][2] = {{even(lower), even(upper)}, {odd(lower), odd(upper)}};
#pragma GCC unroll 4
    for (int b = 0; b < kBatch; ++b) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m256 value = _mm256_broadcast_ss(from + b * columns + k + i);
        sums[b][0] = _mm256_fmadd_ps(weights[i][0], value, sums[b][0]);
        sums[b][1] = _mm256_fmadd_ps(weights[i][1], value, sums[b][1]);
      }
    }
  }
  store_rows<kBatch>(sums, first, y);
}

TRESTLE_AVX2 void widen(const std::byte* panel, int64_t groups, float* wide) {
  for (int64_t k = 0; k < groups * kPanelGroup; k += 2, panel += 64, wide += 2 * kPanelRows) {
    const __m256i lower = half_line(panel), upper = half_line(panel + 32);
    _mm256_storeu_ps(wide, even(lower));
    _mm256_storeu_ps(wide + 8, even(upper));
    _mm256_storeu_ps(wide + kPanelRows, odd(lower));
    _mm256_storeu_ps(wide + kPanelRows + 8, odd(upper));
  }
}

// Twelve sums, two of the weights and a value of x fill the registers.
template <int kBatch>
TRESTLE_AVX2 void wide_product(const float* wide, const PanelInput& x, float* y) {
  __m256 sums[kBatch][2];
#pragma GCC unroll 8
  for (auto& each : sums) each[0] = each[1] = _mm256_setzero_ps();
  const int64_t columns = x.groups * kPanelGroup;
  for (int64_t k = 0; k < columns; ++k, wide += kPanelRows) {
    const __m256 lower = _mm256_loadu_ps(wide), upper = _mm256_loadu_ps(wide + 8);
#pragma GCC unroll 6
    for (int b = 0; b < kBatch; ++b) {
      const __m256 value = _mm256_broadcast_ss(x.fp32 + b * columns + k);
      sums[b][0] = _mm256_fmadd_ps(lower, value, sums[b][0]);
      sums[b][1] = _mm256_fmadd_ps(upper, value, sums[b][1]);
    }
  }
  store_rows<kBatch>(sums, 0, y);
}

void wide_product_of_batch(const float* wide, const PanelInput& x, float* y) {
  using Product = void (*)(const float*, const PanelInput&, float*);
  static constexpr Product kOf[kMostWideRows] = {wide_product<1>, wide_product<2>, wide_product<3>,
                                                 wide_product<4>, wide_product<5>, wide_product<6>};
  kOf[x.batch - 1](wide, x, y);
}

// Sums of four products of codes in each 32 bits; `weights` are signed. Of 127 * 127 two fit in 16
// bits.
TRESTLE_AVX2 inline __m256i dot(__m256i weights, __m256i x) {
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

TRESTLE_AVX2 inline __m256 scales_of(const std::byte* from, int half) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + half));
}

// Sums of a group's codes, times the scales of the panel's rows and of x's, which lie `stride`
// apart.
template <int kBatch>
TRESTLE_AVX2 inline __attribute__((always_inline)) void add_group(const __m256i (&dots)[kBatch][2],
                                                                  const std::byte* row_scales,
                                                                  const float* scales,
                                                                  int64_t stride,
                                                                  __m256 (&sums)[kBatch][2]) {
#pragma GCC unroll 8
  for (int half = 0; half < 2; ++half) {
    const __m256 of_rows = scales_of(row_scales, half);
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) {
      const __m256 both = _mm256_mul_ps(of_rows, _mm256_set1_ps(scales[b * stride]));
      sums[b][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[b][half]), both, sums[b][half]);
    }
  }
}

template <int kBatch>
TRESTLE_AVX2 void int8_rows(const std::byte* panel, const PanelInput& x, int64_t first, float* y) {
  __m256 sums[kBatch][2];
#pragma GCC unroll 8
  for (auto& each : sums) each[0] = each[1] = _mm256_setzero_ps();
  const __m256i zero = _mm256_set1_epi8(-128);
  const int64_t columns = x.groups * kPanelGroup;
  for (int64_t g = 0; g < x.groups; ++g) {
    __m256i dots[kBatch][2];
    for (auto& each : dots) each[0] = each[1] = _mm256_setzero_si256();
    for (int i = 0; i < 8; ++i, panel += 64) {
#pragma GCC unroll 8
      for (int half = 0; half < 2; ++half) {
        const __m256i weights = _mm256_xor_si256(half_line(panel + 32 * half), zero);
#pragma GCC unroll 8
        for (int b = 0; b < kBatch; ++b) {
          const int8_t* from = x.codes + (first + b) * columns + g * kPanelGroup + 4 * i;
          dots[b][half] = _mm256_add_epi32(dots[b][half], dot(weights, everywhere(from)));
        }
      }
    }
    add_group<kBatch>(dots, panel, x.scales + first * x.groups + g, x.groups, sums);
    panel += 2 * kPanelRows;
  }
  store_rows<kBatch>(sums, first, y);
}

// Codes 0 .. 15 are 8 more than they are. Of 15 * 127 all sixteen of a group fit in 16 bits.
template <int kBatch>
TRESTLE_AVX2 void int4_rows(const std::byte* panel, const PanelInput& x, int64_t first, float* y) {
  __m256 sums[kBatch][2];
#pragma GCC unroll 8
  for (auto& each : sums) each[0] = each[1] = _mm256_setzero_ps();
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const int64_t columns = x.groups * kPanelGroup;
  for (int64_t g = 0; g < x.groups; ++g) {
    __m256i dots[kBatch][2];
    for (auto& each : dots) each[0] = each[1] = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i, panel += 64) {
#pragma GCC unroll 8
      for (int half = 0; half < 2; ++half) {
        const __m256i codes = half_line(panel + 32 * half);
        const __m256i lower = _mm256_and_si256(codes, low);
        const __m256i higher = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
#pragma GCC unroll 8
        for (int b = 0; b < kBatch; ++b) {
          const int8_t* from = x.codes + (first + b) * columns + g * kPanelGroup + 8 * i;
          const __m256i both = _mm256_add_epi16(_mm256_maddubs_epi16(lower, everywhere(from)),
                                                _mm256_maddubs_epi16(higher, everywhere(from + 4)));
          dots[b][half] = _mm256_add_epi16(dots[b][half], both);
        }
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) {
      const __m256i zeros = _mm256_set1_epi32(8 * x.sums[(first + b) * x.groups + g]);
#pragma GCC unroll 8
      for (__m256i& dot : dots[b]) dot = _mm256_sub_epi32(_mm256_madd_epi16(dot, ones), zeros);
    }
    add_group<kBatch>(dots, panel, x.scales + first * x.groups + g, x.groups, sums);
    panel += 2 * kPanelRows;
  }
  store_rows<kBatch>(sums, first, y);
}

// NOLINTBEGIN(bugprone-macro-parentheses): names of types and templates
#define TRESTLE_IN_TURNS(name, rows)                                           \
  template <int kBatch>                                                        \
  void name(const std::byte* panel, const PanelInput& x, float* y) {           \
    constexpr int kFirst = kBatch < kMostAtATime ? kBatch : kMostAtATime;      \
    rows<kFirst>(panel, x, 0, y);                                              \
    if constexpr (kBatch > kFirst) rows<kBatch - kFirst>(panel, x, kFirst, y); \
  }
// NOLINTEND(bugprone-macro-parentheses)
TRESTLE_IN_TURNS(bf16_product, bf16_rows)
TRESTLE_IN_TURNS(int8_product, int8_rows)
TRESTLE_IN_TURNS(int4_product, int4_rows)

}  // namespace

const PanelSums* panel_sums_avx2() {
  static const bool kHere = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                            __builtin_cpu_supports("f16c");
  static constexpr PanelSums kSums = {TRESTLE_BY_BATCH(bf16_product),
                                      TRESTLE_BY_BATCH(int8_product),
                                      TRESTLE_BY_BATCH(int4_product),
                                      nullptr,
                                      widen,
                                      wide_product_of_batch,
                                      false,
                                      "AVX2"};
  return kHere ? &kSums : nullptr;
}

}  // namespace trestle

#else

namespace trestle {
const PanelSums* panel_sums_avx2() { return nullptr; }
}  // namespace trestle

#endif
