// The kinds of processors that panel_sums chooses from, and how each makes of a product of a fixed
// number of rows that of any.
#pragma once

#include "cpu/panel_sums.h"

namespace trestle {

/// Null where the processor lacks it.
const PanelSums* panel_sums_avx512();
const PanelSums* panel_sums_avx2();
const PanelSums* panel_sums_plain();

// NOLINTBEGIN(bugprone-macro-parentheses): names of types and templates
/// `product<n>` for x.batch = n, as PanelSums::Product.
#define TRESTLE_BY_BATCH(product)                                          \
  [](const std::byte* panel, const PanelInput& x, float* y) {              \
    using Product = void (*)(const std::byte*, const PanelInput&, float*); \
    static constexpr Product kOf[kMostPanelRows] = {                       \
        product<1>, product<2>, product<3>, product<4>,                    \
        product<5>, product<6>, product<7>, product<8>};                   \
    kOf[x.batch - 1](panel, x, y);                                         \
  }

/// `product<n>` for x.batch = n, as PanelSums::bf16_pair.
#define TRESTLE_BY_PAIR_BATCH(product)                                                 \
  [](const std::byte* panel, const PanelInput& x, float* y) {                          \
    using Product = void (*)(const std::byte*, const PanelInput&, float*);             \
    static constexpr Product kOf[kMostPairRows] = {product<1>, product<2>, product<3>, \
                                                   product<4>};                        \
    kOf[x.batch - 1](panel, x, y);                                                     \
  }
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace trestle
