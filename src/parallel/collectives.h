// Collectives as nodes of autograd, each with its dual as the backward pass (Shoeybi et al. 2019,
// section 3; Korthikanti et al. 2022, section 4.2). Called by Linear, the embedding, attention's K
// and V, and the loss. Over a group of one each is its input.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "parallel/group.h"

namespace trestle {

/// x as it is; its gradient is the sum over the ranks.
at::Tensor copy_to(const at::Tensor& x, const Group& group);
/// The sum of x over the ranks; its gradient goes on as it is.
at::Tensor reduce_from(const at::Tensor& x, const Group& group);
/// [n, ...] -> [size * n, ...]; its gradient is summed over the ranks and each takes its rows.
at::Tensor gather_from(const at::Tensor& x, const Group& group);
/// [size * n, ...] -> this rank's [n, ...] of the sum over the ranks; gradients are gathered.
at::Tensor scatter_to(const at::Tensor& x, const Group& group);
/// [size * n, ...], the same on every rank -> this rank's [n, ...]; gradients are gathered.
at::Tensor slice_to(const at::Tensor& x, const Group& group);

}  // namespace trestle
