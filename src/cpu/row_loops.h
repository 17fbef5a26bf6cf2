// What stands between a decoder's products, for a few rows on the CPU: one pass each, where
// libtorch's operators would be many, for a processor's vectors. Called by the ops of these names.
#pragma once

#include <cstdint>

namespace trestle {

/// A value in bf16, or a float. All loops compute in fp32 and round where the operators would.
struct RowLoops {
  /// y = w * round(x / sqrt(mean(x^2) + eps)) of one row.
  template <class Value>
  struct Of {
    void (*rms_norm)(const Value* x, const Value* weight, int64_t columns, float eps, Value* y);
    /// y = round(gate / (1 + exp(-gate))) * up of one row.
    void (*swiglu)(const Value* gate, const Value* up, int64_t columns, Value* y);
    /// y = x cos + (-second half, first half) sin of a head of `size`, then times `scale`.
    void (*rotate)(const Value* x, const Value* cos, const Value* sin, const Value* scale,
                   int64_t size, Value* y);
    /// The first place of the largest of `columns` >= 1 values, which is `largest`; where one is
    /// NaN, that is NaN and the place means nothing.
    int64_t (*argmax)(const Value* x, int64_t columns, float* largest);
    /// Attention of `queries` rows of one group of heads, q [queries, size] already times
    /// 1/sqrt(size), to keys and values [at most limits[i], size], whose rows follow each other:
    /// softmax(q k^T) v -> y [queries, size]. Row i sees the first limits[i] >= 1 of them. `work`:
    /// attention_work(queries, size) floats.
    void (*attend)(const float* q, int64_t queries, const int64_t* limits, const Value* keys,
                   const Value* values, int64_t size, float* work, Value* y);
  };
  Of<uint16_t> bf16;
  Of<float> fp32;

  template <class Value>
  const Of<Value>& of() const {
    if constexpr (sizeof(Value) == sizeof(uint16_t)) {
      return bf16;
    } else {
      return fp32;
    }
  }
};

int64_t attention_work(int64_t queries, int64_t size);

/// "AVX512", "AVX2" or another, as libtorch names them; null where the processor lacks it.
const RowLoops* row_loops(const char* capability);
/// Those of libtorch's own capability.
const RowLoops& row_loops_here();

}  // namespace trestle
