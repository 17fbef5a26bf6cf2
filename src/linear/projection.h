// A projection as one node of autograd: the product with its matrix, the bias, and a low-rank
// update that is added into the product's output. Called by Linear.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <vector>

#include "linear/fused.h"
#include "linear/tiles.h"

namespace trestle {

/// x, and where `remake` is set how the backward pass makes it again, which then keeps `from`
/// instead: tensors that other nodes of the graph keep anyway.
struct ProjectionInput {
  /// Of `from`, to the bit. It owns no tensors: what it owns lives as long as the graph.
  using Remake = std::function<at::Tensor(const std::vector<at::Tensor>& from)>;

  // NOLINTNEXTLINE(google-explicit-constructor): most inputs are tensors and nothing else
  ProjectionInput(at::Tensor value) : x(std::move(value)) {}
  ProjectionInput(at::Tensor value, std::vector<at::Tensor> from, Remake remake)
      : x(std::move(value)), from(std::move(from)), remake(std::move(remake)) {}

  at::Tensor x;
  std::vector<at::Tensor> from;
  Remake remake;
};

/// A matrix [out, in] in the form in which a projection holds it. `tensors` are parts() of that
/// form, or the dense matrix. Where `gather` is set the backward pass keeps none and asks it for
/// them again.
struct HeldMatrix {
  enum class Form { kDense, kQuantized, kFp8, kPanels };
  Form form = Form::kDense;
  WeightParts parts;
  std::function<std::vector<at::Tensor>()> gather;
};

/// Its values, made anew but of a dense one.
at::Tensor dense(const HeldMatrix& matrix, IndexRange rows, IndexRange columns,
                 at::ScalarType dtype);

/// The sum of s B A over the parts of a fused projection, or a single pair for the whole of it.
struct LowRankUpdate {
  FusedLayout layout;
  int64_t out = 0;
  /// s of each part, in the order of layout.parts(), nothing where a part is not adapted; one alone
  /// is the whole projection's.
  std::vector<std::optional<double>> scales;
  /// A [rank, in] and B [rows of the part, rank] of each pair there is, in turn.
  std::vector<at::Tensor> factors;
  /// Of what A sees of x.
  double dropout = 0;
};

/// x W^T + b + sum of s B A dropout(x): [T, in] -> [T, out]. `bias` may be undefined and `update`
/// empty. Gives gradients to x, to a dense matrix, the bias and the factors, and keeps x (or what
/// it is made from) for those of the matrix and the factors alone.
at::Tensor projected(const ProjectionInput& input, const HeldMatrix& matrix, const at::Tensor& bias,
                     const LowRankUpdate& update);

}  // namespace trestle
