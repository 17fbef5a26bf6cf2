// Compiled with -ffp-contract=fast: sums of products are fused where the processor can.
#include "cpu/panel_product.h"

#include <cstring>

namespace trestle {

namespace {

// `Lanes` floats as one value; the compiler takes the registers that the function may use. They are
// loaded and stored by memcpy: as one instruction, of any alignment.
template <int Lanes>
struct Floats {
  using Type __attribute__((vector_size(Lanes * sizeof(float)))) = float;
};

// Weights * Vectors sums must stay in registers, beside Vectors of the panel and one weight.
template <int Lanes, int Vectors, int Weights>
[[gnu::always_inline]] inline void multiply(const float* panel, int64_t depth, const float* sliver,
                                            int64_t weight_stride, int64_t depth_stride,
                                            float* sums, bool add) {
  using Vector = typename Floats<Lanes>::Type;
  Vector sum[Weights][Vectors];
#pragma GCC unroll 24
  for (int w = 0; w < Weights; ++w) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sum[w][v] = Vector{};
      if (add) std::memcpy(&sum[w][v], sums + (w * Vectors + v) * Lanes, sizeof(Vector));
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    const float* weights = sliver + k * depth_stride;
    Vector row[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      std::memcpy(&row[v], panel + (k * Vectors + v) * Lanes, sizeof(Vector));
    }
#pragma GCC unroll 24
    for (int w = 0; w < Weights; ++w) {
      const float weight = weights[w * weight_stride];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[w][v] += row[v] * weight;
    }
  }
#pragma GCC unroll 24
  for (int w = 0; w < Weights; ++w) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      std::memcpy(sums + (w * Vectors + v) * Lanes, &sum[w][v], sizeof(Vector));
    }
  }
}

#define TRESTLE_PANEL_KERNEL(name, lanes, vectors, weights)                                    \
  void name(const float* panel, int64_t depth, const float* sliver, int64_t weight_stride,     \
            int64_t depth_stride, float* sums, bool add) {                                     \
    multiply<lanes, vectors, weights>(panel, depth, sliver, weight_stride, depth_stride, sums, \
                                      add);                                                    \
  }

// A shape for many rows, and one for no more than half a panel's.
struct PanelKernels {
  PanelKernel many, few;

  const PanelKernel* of(int64_t rows) const { return rows <= few.rows ? &few : &many; }
};

#ifdef __x86_64__
#define TRESTLE_AVX512 __attribute__((target("avx512f")))
#define TRESTLE_AVX2 __attribute__((target("avx2,fma")))
TRESTLE_AVX512 TRESTLE_PANEL_KERNEL(avx512_32_12, 16, 2, 12);
TRESTLE_AVX512 TRESTLE_PANEL_KERNEL(avx512_16_24, 16, 1, 24);
TRESTLE_AVX2 TRESTLE_PANEL_KERNEL(avx2_16_6, 8, 2, 6);
TRESTLE_AVX2 TRESTLE_PANEL_KERNEL(avx2_8_12, 8, 1, 12);
constexpr PanelKernels kAvx512 = {{32, 12, avx512_32_12}, {16, 24, avx512_16_24}};
constexpr PanelKernels kAvx2 = {{16, 6, avx2_16_6}, {8, 12, avx2_8_12}};
#endif
// 128-bit registers: 32 of them on Arm, and x86 without AVX2 is not worth a shape of its own.
TRESTLE_PANEL_KERNEL(plain_16_6, 4, 4, 6);
TRESTLE_PANEL_KERNEL(plain_8_12, 4, 2, 12);
constexpr PanelKernels kPlain = {{16, 6, plain_16_6}, {8, 12, plain_8_12}};

}  // namespace

const PanelKernel* panel_kernel(const char* capability, int64_t rows) {
#ifdef __x86_64__
  if (std::strcmp(capability, "AVX512") == 0) {
    return __builtin_cpu_supports("avx512f") ? kAvx512.of(rows) : nullptr;
  }
  if (std::strcmp(capability, "AVX2") == 0) {
    const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has ? kAvx2.of(rows) : nullptr;
  }
#endif
  return kPlain.of(rows);
}

}  // namespace trestle
