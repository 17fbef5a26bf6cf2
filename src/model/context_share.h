// What one rank takes of a batch whose rows context ranks share out, or whose tokens tensor ranks
// spread: padding first, then pieces of each row. Made for Ministral3 by whoever gives it a batch;
// read by the embedding and attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "model/input.h"
#include "parallel/model_groups.h"

namespace trestle {

/// Of `ranks` context ranks, rank r holds pieces r and 2 ranks - 1 - r of the 2 ranks equal pieces
/// of each row, so that causal attention costs all of them the same (megatron-core's
/// get_batch_on_this_cp_rank). Positions are the rows' own.
struct ContextShare {
  /// Places in the whole batch of this rank's tokens, int64 [T / ranks] on the CPU.
  at::Tensor tokens;
  /// Rows of the batch's picture features that stand at this rank's image tokens, int64, CPU.
  at::Tensor features;
  /// This rank's pieces, and the keys before and in each of them, piece by piece.
  Packing queries, keys;
  /// Of the tokens of all ranks, gathered, those that `keys` has, int64 where keys' offsets are.
  at::Tensor key_places;

  /// Rows of the batch are multiples of 2 who.ranks long.
  static ContextShare of(const ModelInput& whole, int64_t image_token_id, RankOf who);
  ContextShare to(at::Device device) const;
};

struct RankBatch {
  ModelInput input;
  at::Tensor labels_T;
};

/// The rows of a batch on this rank. Rows are padded so that context ranks divide them, and the
/// batch by one more row so that spreading tensor ranks divide its tokens; padding has no labels
/// and nobody attends to it. `spreads`: tokens are spread over the tensor ranks.
RankBatch batch_of_rank(const ModelInput& whole, const at::Tensor& labels_T,
                        const ModelGroups& groups, bool spreads, int64_t image_token_id);

/// softmax(q k^T / sqrt(H)) v of this rank's queries over the keys of all ranks up to each query's
/// own: q [T / ranks, G, N, H], k and v [T / ranks, G, H] -> [T / ranks, G*N*H].
at::Tensor context_attention(const at::Tensor& q_TGNH, const at::Tensor& k_TGH,
                             const at::Tensor& v_TGH, const ContextShare& share,
                             const Group& context);

}  // namespace trestle
