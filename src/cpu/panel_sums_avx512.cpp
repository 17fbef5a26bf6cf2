#include "cpu/panel_sums_of.h"

#ifdef __x86_64__
#include <immintrin.h>

// The functions that hold these intrinsics name what they need: nothing else of this file may.
#define TRESTLE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))

namespace trestle {

namespace {

constexpr int kAhead = 4096;  // bytes to the line that is fetched meanwhile

// Two columns of 16 rows, or four codes of each, as a register has them.
TRESTLE_AVX512 inline __m512i line(const std::byte* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_T0);
  return _mm512_loadu_si512(from);
}

TRESTLE_AVX512 inline __m512i everywhere(const void* four_bytes) {
  return _mm512_set1_epi32(*static_cast<const int*>(four_bytes));
}

// A row of x has two sums with a panel, of every other line, whatever other rows and panels there
// are: its results are the same bits alone and beside others.
template <int kBatch, int kPanels>
TRESTLE_AVX512 inline __attribute__((always_inline)) void bf16_sums(const std::byte* panel,
                                                                    const PanelInput& x, float* y) {
  constexpr int kLines = kPanelGroup / 2;
  __m512 sums[2][kBatch][kPanels];
#pragma GCC unroll 8
  for (auto& half : sums) {
#pragma GCC unroll 8
    for (auto& of_row : half) {
#pragma GCC unroll 8
      for (__m512& sum : of_row) sum = _mm512_setzero_ps();
    }
  }
  const int64_t columns = x.groups * kPanelGroup, panel_bytes = columns * kPanelRows * 2;
  for (int64_t g = 0; g < x.groups; ++g) {
    for (int i = 0; i < kLines; i += 2) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, panel += 64) {
        __m512i weights[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) weights[p] = line(panel + p * panel_bytes);
#pragma GCC unroll 8
        for (int b = 0; b < kBatch; ++b) {
          const __m512i pair = everywhere(x.bf16 + b * columns + g * kPanelGroup + 2 * (i + half));
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p) {
            __m512& sum = sums[half][b][p];
            sum = _mm512_dpbf16_ps(sum, (__m512bh)weights[p], (__m512bh)pair);  // NOLINT: the type
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBatch; ++b) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      _mm512_storeu_ps(y + (b * kPanels + p) * kPanelRows,
                       _mm512_add_ps(sums[0][b][p], sums[1][b][p]));
    }
  }
}

template <int kBatch>
TRESTLE_AVX512 void bf16_product(const std::byte* panel, const PanelInput& x, float* y) {
  bf16_sums<kBatch, 1>(panel, x, y);
}

// Twice the products for each value of x that is read, in as many registers.
template <int kBatch>
TRESTLE_AVX512 void bf16_pair(const std::byte* panel, const PanelInput& x, float* y) {
  bf16_sums<kBatch, 2>(panel, x, y);
}

TRESTLE_AVX512 inline __m512 scales_of(const std::byte* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

// Weights' codes are unsigned, kZero more than they are: that much of x's sum is taken away.
template <int kBatch, int kZero, bool kHalves>
TRESTLE_AVX512 inline __attribute__((always_inline)) void code_product(const std::byte* panel,
                                                                       const PanelInput& x,
                                                                       float* y) {
  constexpr int kLines = kHalves ? 4 : 8;
  __m512 sums[kBatch];
#pragma GCC unroll 8
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512i low = _mm512_set1_epi8(15);
  const int64_t columns = x.groups * kPanelGroup;
  for (int64_t g = 0; g < x.groups; ++g) {
    __m512i dots[kBatch];
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) {
      dots[b] = _mm512_set1_epi32(-kZero * x.sums[b * x.groups + g]);
    }
    for (int i = 0; i < kLines; ++i, panel += 64) {
      const __m512i codes = line(panel);
#pragma GCC unroll 8
      for (int b = 0; b < kBatch; ++b) {
        const int8_t* from = x.codes + b * columns + g * kPanelGroup;
        if constexpr (kHalves) {
          const __m512i high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low);
          dots[b] =
              _mm512_dpbusd_epi32(dots[b], _mm512_and_si512(codes, low), everywhere(from + 8 * i));
          dots[b] = _mm512_dpbusd_epi32(dots[b], high, everywhere(from + 8 * i + 4));
        } else {
          dots[b] = _mm512_dpbusd_epi32(dots[b], codes, everywhere(from + 4 * i));
        }
      }
    }
    const __m512 scales = scales_of(panel);
    panel += 2 * kPanelRows;
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) {
      const __m512 both = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[b * x.groups + g]));
      sums[b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[b]), both, sums[b]);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kBatch; ++b) _mm512_storeu_ps(y + b * kPanelRows, sums[b]);
}

template <int kBatch>
TRESTLE_AVX512 void int8_product(const std::byte* panel, const PanelInput& x, float* y) {
  code_product<kBatch, 128, false>(panel, x, y);
}

template <int kBatch>
TRESTLE_AVX512 void int4_product(const std::byte* panel, const PanelInput& x, float* y) {
  code_product<kBatch, 8, true>(panel, x, y);
}

}  // namespace

const PanelSums* panel_sums_avx512() {
  static const bool kHere =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512bf16");
  static constexpr PanelSums kSums = {TRESTLE_BY_BATCH(bf16_product),
                                      TRESTLE_BY_BATCH(int8_product),
                                      TRESTLE_BY_BATCH(int4_product),
                                      TRESTLE_BY_PAIR_BATCH(bf16_pair),
                                      nullptr,
                                      nullptr,
                                      true,
                                      "AVX-512 BF16 and VNNI"};
  return kHere ? &kSums : nullptr;
}

}  // namespace trestle

#else

namespace trestle {
const PanelSums* panel_sums_avx512() { return nullptr; }
}  // namespace trestle

#endif
