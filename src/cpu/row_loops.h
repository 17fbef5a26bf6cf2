// What stands between a decoder's products on the CPU, and its gradients: one pass each, where
// libtorch's operators would be many, for a processor's vectors. Called by the ops of these names.
#pragma once

#include <cstdint>

namespace trestle {

/// A value in bf16, or a float. All loops compute in fp32 and round where the operators would.
struct RowLoops {
  template <class Value>
  struct Of {
    /// y = w * round(x r) of one row, r = 1 / sqrt(mean(x^2) + eps). Gives r.
    float (*rms_norm)(const Value* x, const Value* weight, int64_t columns, float eps, Value* y);
    /// dx = r (g - x r^2 mean(g x)) where g = round(dy w). dw += dy * round(x r), unless it is
    /// null.
    void (*rms_norm_backward)(const Value* x, const Value* weight, const Value* dy, float r,
                              int64_t columns, Value* dx, float* dw);
    /// y = round(gate s) * up of one row, s = 1 / (1 + exp(-gate)).
    void (*swiglu)(const Value* gate, const Value* up, int64_t columns, Value* y);
    /// dup = dy * round(gate s), dgate = round(dy up) * s (1 + gate (1 - s)).
    void (*swiglu_backward)(const Value* gate, const Value* up, const Value* dy, int64_t columns,
                            Value* dgate, Value* dup);
    /// y = x cos + (-second half, first half) sin of a head of `size`, then times `scale`.
    void (*rotate)(const Value* x, const Value* cos, const Value* sin, const Value* scale,
                   int64_t size, Value* y);
    /// dx = g cos + (second half, -first half of g sin), where g = round(dy scale).
    void (*rotate_backward)(const Value* dy, const Value* cos, const Value* sin, const Value* scale,
                            int64_t size, Value* dx);
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
