// Softmax and cross entropy of a block of logits. Called by model/chunked_loss.h, which bounds the
// block.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/group.h"

namespace trestle {

/// Of N rows, each [N, 1] in fp32: -log softmax[target], and what softmax = exp(logit - largest) /
/// sum is made with. Largest and sum are kept apart: their logarithm as one number would round by
/// more than fp32's softmax may.
struct SoftmaxRows {
  at::Tensor losses, largest, sum;

  /// Uninitialised.
  static SoftmaxRows of(int64_t rows, c10::Device device);
  /// Rows [first, first + count), which share memory with these.
  SoftmaxRows narrow(int64_t first, int64_t count) const;
};

/// Fills `rows` from logits_NV, which are used up, and targets_N int64 in [0, V). The result is the
/// gradient of the sum of losses, softmax - onehot(target) in the logits' dtype [N, V], or
/// undefined without `gradient`. Where the ranks of `vocabulary` share V out, logits_NV and the
/// gradient are this rank's, targets_N count from its first and lie outside where they are
/// another's, and losses, largest and sum are of all.
at::Tensor cross_entropy(at::Tensor logits_NV, const at::Tensor& targets_N, const SoftmaxRows& rows,
                         bool gradient, const Group& vocabulary = {});

}  // namespace trestle
