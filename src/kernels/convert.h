// bf16 to fp32 and back over plain memory. Called by the products, from many threads.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace trestle {

/// Exact.
void widen(const c10::BFloat16* from, float* to, int64_t count);
/// To the nearest, ties to even; NaN stays NaN.
void round_to_bf16(const float* from, c10::BFloat16* to, int64_t count);

}  // namespace trestle
