#include "model/config.h"

namespace trestle {

ShardedSizes sharded_sizes(const TextConfig& text) {
  return {.layers = text.num_layers,
          .heads = text.num_attention_heads,
          .query_groups = text.num_query_groups,
          .ffn = text.intermediate_size,
          .vocabulary = text.vocab_size};
}

}  // namespace trestle
