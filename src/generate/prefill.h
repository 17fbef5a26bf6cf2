// Prompts into a cache, a bounded number of tokens at a time. Called by the generator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "generate/forward.h"
#include "model/input.h"

namespace trestle {

class KvCache;

/// What one forward of a prefill takes: whole sequences, or a part of one.
struct PrefillChunk {
  int64_t first_sequence = 0;
  /// Of all sequences' tokens.
  int64_t first_token = 0;
  /// How many tokens of each sequence from first_sequence on.
  std::vector<int64_t> lengths;
};

/// Sequences of these lengths in chunks of at most `most` tokens, in order: as many whole sequences
/// as go together, and one that is longer than `most` in parts.
std::vector<PrefillChunk> prefill_chunks(const std::vector<int64_t>& lengths, int64_t most);

/// Fills an empty cache with the prompts -> the hidden states of the last token of each, [B, D],
/// on the last stage.
/// What lies between the layers is of `chunk_size` tokens at a time, whatever the prompts' lengths;
/// pictures go through the vision tower before, one after the other. Whole or in chunks the
/// results are the same but for the order of sums.
at::Tensor prefill(const Forward& forward, const ModelInput& prompts, int64_t chunk_size,
                   KvCache& cache);

}  // namespace trestle
