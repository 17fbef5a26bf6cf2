// Which samples of a global batch share a forward. Called by the trainer and by validation.
#pragma once

#include <vector>

#include "data/batch.h"
#include "recipes/config.h"

namespace trestle {

/// Their places in `samples`: train.micro_batch_size neighbours, or with
/// dataset.pack_sequences_in_batch as many as fit into that many times model.seq_length tokens.
std::vector<std::vector<size_t>> micro_batches(const TrainConfig& config,
                                               const std::vector<Sample>& samples);

/// Those of the samples, moved out.
std::vector<Sample> take(std::vector<Sample>& samples, const std::vector<size_t>& group);

}  // namespace trestle
