// How a block finds its chunk of the table of all parameters. For .cu files.
#pragma once

#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/parameter_table.h"

namespace trestle::cuda {

/// Elements [begin, end) of a parameter.
struct Chunk {
  const Parameter& parameter;
  int64_t begin, end;
};

/// The last parameter that begins at or before `chunk` (one without elements has no chunk).
__device__ __forceinline__ Chunk chunk_of(const ParameterTable& table, int64_t chunk) {
  int64_t low = 0, high = table.count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (table.parameters[middle].first_chunk <= chunk ? low : high) = middle;
  }
  const Parameter& parameter = table.parameters[low];
  const int64_t begin = (chunk - parameter.first_chunk) * kChunk;
  return {parameter, begin, min(begin + kChunk, parameter.count)};
}

/// fn(first index, width) with width 4 as a type for whole vectors, where `aligned` says that there
/// are any, and 1 for what is left, each by one thread of the block.
template <class Function>
__device__ __forceinline__ void for_elements(const Chunk& chunk, bool aligned, const Function& fn) {
  constexpr int kWidth = 4;
  const int64_t whole = aligned ? (chunk.end - chunk.begin) / kWidth * kWidth : 0;
  for (int64_t i = threadIdx.x * kWidth; i < whole; i += int64_t{blockDim.x} * kWidth) {
    fn(chunk.begin + i, std::integral_constant<int, kWidth>());
  }
  for (int64_t i = chunk.begin + whole + threadIdx.x; i < chunk.end; i += blockDim.x) {
    fn(i, std::integral_constant<int, 1>());
  }
}

/// fn(T{}) for the type of the gradient.
template <class Function>
__device__ __forceinline__ void with_gradient_type(const Parameter& parameter, const Function& fn) {
  if (parameter.gradient_type == Type::kFloat) {
    fn(float{});
  } else {
    fn(__nv_bfloat16{});
  }
}

__device__ __forceinline__ bool is_aligned_here(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

}  // namespace trestle::cuda
