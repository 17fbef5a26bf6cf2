// The groups over which a model's own layers communicate. Part of every module's Build.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/group.h"
#include "parallel/share.h"

namespace trestle {

struct ModelGroups {
  /// Ranks that hold slices of the same weights, as split_of() cuts them.
  Group tensor;
  /// Ranks that hold pieces of the same rows; K and V go round among them.
  Group context;
  /// Between the products a rank holds its share of the tokens only (Korthikanti et al. 2022).
  bool sequence_parallel = false;

  /// Among the ranks that see the same pictures.
  RankOf picture_rank() const {
    return {context.rank() * tensor.size() + tensor.rank(), context.size() * tensor.size()};
  }
  RankOf tensor_rank() const { return {tensor.rank(), tensor.size()}; }
  /// Whether tokens are spread over the tensor ranks, [T / ranks, D] each: in training alone, whose
  /// batches are padded so that the ranks divide them.
  bool spreads(bool training) const { return sequence_parallel && training && !tensor.is_one(); }
  /// What weights cut by rows read: x [T, D] whole on every rank, its gradient the sum of theirs.
  /// `spread`: x is a share.
  at::Tensor enter(const at::Tensor& x_TD, bool spread) const;
  /// What weights cut by columns wrote: the sum of the ranks' x [T, D]. `spread`: a share of it.
  at::Tensor leave(const at::Tensor& x_TD, bool spread) const;
  /// This rank's share of x [T, D], which is the same on all of them, where `spread`.
  at::Tensor spread(const at::Tensor& x_TD, bool spread) const;
};

}  // namespace trestle
