// Rows of a tensor that a loop of row_loops takes one by one, on libtorch's threads where they are
// many. Included by the ops that have such a loop.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "cpu/row_loops.h"

namespace trestle {

/// Whether the loops take these: of the CPU, bf16 or fp32 alike.
inline bool takes_row_loops(std::initializer_list<at::Tensor> tensors) {
  const at::ScalarType dtype = tensors.begin()->scalar_type();
  return (dtype == at::kFloat || dtype == at::kBFloat16) &&
         std::ranges::all_of(tensors, [&](const at::Tensor& each) {
           return each.is_cpu() && each.scalar_type() == dtype;
         });
}

/// fn(Value{}) of the type by which the loops know x's dtype.
template <class Function>
void by_value_type(const at::Tensor& x, const Function& fn) {
  x.scalar_type() == at::kFloat ? fn(float{}) : fn(uint16_t{});
}

/// fn(row) for each of `rows`, whose values are `columns` or so.
template <class Function>
void for_rows(int64_t rows, int64_t columns, const Function& fn) {
  constexpr int64_t kGrain = 1 << 15;  // values that a thread takes at least
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t row = first; row < last; ++row) fn(row);
                   });
}

}  // namespace trestle
