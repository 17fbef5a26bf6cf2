// All parameters that train as one table on a card, so that a kernel goes over all of them in one
// launch. What adamw.h and gradient_norm.h take.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// Elements that a block takes; a parameter begins with a chunk of its own.
constexpr int64_t kChunk = 16384;

/// One parameter of `count` elements. Where its gradient is null it is left alone.
struct Parameter {
  int64_t first_chunk;  // chunks of all parameters before
  int64_t count;
  float *master, *exp_avg, *exp_avg_sq;
  /// In bf16 the master's rounding; null where the master is the weight.
  void* weight;
  const void* gradient;
  Type gradient_type;
  int32_t group;  // of AdamW::groups
};

constexpr int64_t chunks_of(int64_t count) { return (count + kChunk - 1) / kChunk; }

/// `parameters` [count] lies on the device, in the order of first_chunk; `chunks` are all of
/// theirs.
struct ParameterTable {
  const Parameter* parameters;
  int64_t count, chunks;
};

}  // namespace trestle::cuda
