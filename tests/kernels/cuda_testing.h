// For tests of CUDA kernels that the emulator runs: results that are the same in every order of the
// threads, memory that ends where a tensor does, and how far results are from fp64's.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "cuda/call.h"

namespace trestle::testing {

/// A copy that is followed by a page that nobody may touch (and, of a whole number of pages, stands
/// behind one).
at::Tensor fenced(const at::Tensor& values);
/// Such memory, all NaN (or all ones).
at::Tensor fenced_empty(at::IntArrayRef shape, at::ScalarType type);

/// What `kernels()` gives, which is asked for in several orders of threads and blocks and must be
/// the same to the bit in all.
std::vector<at::Tensor> in_every_order(const std::function<std::vector<at::Tensor>()>& kernels);

cuda::Type type_of(const at::Tensor& tensor);

/// ||got - wanted|| <= limit ||wanted||, where `wanted` is in fp64.
void expect_near(const at::Tensor& got, const at::Tensor& wanted, double limit,
                 const std::string& what);
/// 1e-5 in fp32; in bf16, for each of `roundings`, 2^-9, where rounding the exact result does
/// 0.0017, or of few elements 2^-8, the most that it does.
void expect_exact(const at::Tensor& got, const at::Tensor& wanted, const std::string& what,
                  int roundings = 1);

inline at::Tensor exact(const at::Tensor& x) { return x.detach().to(at::kDouble); }

}  // namespace trestle::testing
