// The embedding of token ids, its vocabulary shared out over tensor ranks. Called by LanguageModel.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/group.h"

namespace trestle {

/// int64 [T] in [0, V) -> [T, D], the same on every rank of `group`, of which each holds V / size
/// rows of the embedding, [V / size, D].
at::Tensor vocabulary_embedding(const at::Tensor& weight_VD, const at::Tensor& ids_T,
                                const Group& group);

}  // namespace trestle
