// Parts of a matrix whose values are made when they are needed. Shared by the forms in which a
// frozen weight may be held: quantized.h and fp8_weight.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace trestle {

/// Indices [first, first + count) of an axis.
struct IndexRange {
  int64_t first = 0;
  int64_t count = 0;
};

/// What a held weight is made of, and made from again: autograd keeps this for the backward pass,
/// and no values.
struct WeightParts {
  std::vector<at::Tensor> tensors;
  /// A size that no tensor has.
  int64_t size = 0;
};

/// Of a dense tile: small enough to come from the heap again and again (a mapping of its own would
/// be cleared page by page each time), large enough for a matrix product of full speed.
constexpr int64_t kTileBytes = 16 << 20;
/// A card makes most weights in one: a product that is not cut has more rows for its processors,
/// and its result needs no copy.
constexpr int64_t kTileBytesOnACard = 256 << 20;
/// A tile starts at a multiple of this many columns.
constexpr int64_t kTileColumns = 64;

}  // namespace trestle
