// The head and its cross entropy in pieces: neither the logits nor their gradient ever exist
// whole. Called by Ministral3::loss_sum.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "parallel/group.h"

namespace trestle {

/// Logits that exist at a time, in elements: 64 MiB in fp32.
constexpr int64_t kLogitsAtOnce = int64_t{1} << 24;
/// On a card, whose products want more rows than these would be: 256 MiB in bf16, 1,024 rows of the
/// family's vocabulary.
constexpr int64_t kLogitsAtOnceOnACard = int64_t{1} << 27;

/// Sum over the rows of -log softmax(x W^T)[target], an fp32 scalar. x_ND are normed hidden states,
/// weight_VD the head's weight (or the embedding, where tied), targets_N int64 [N] in [0, V).
/// Where x asks for gradients its gradient is made in the forward, with the logits; that of a
/// weight that trains is made in the backward from logits computed again, a block of the vocabulary
/// at a time. `logits_at_once` bounds both. Where the ranks of `vocabulary` share the head's rows
/// out, weight_VD is this rank's, the loss is that of all, and x's gradient a part of their sum.
at::Tensor chunked_cross_entropy(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                                 const at::Tensor& targets_N, int64_t logits_at_once,
                                 const Group& vocabulary = {});
/// With as many as x's device is given.
at::Tensor chunked_cross_entropy(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                                 const at::Tensor& targets_N, const Group& vocabulary = {});

}  // namespace trestle
