// What is planned for: a run's config, its model's sizes, and what a sample of its data is taken to
// be. Made by `trestle plan`; read by every formula.
#pragma once

#include <cstdint>

#include "planner/shape.h"
#include "recipes/config.h"

namespace trestle {

/// Masters, moments, norms and sums are in fp32 whatever the weights are.
inline constexpr int64_t kFloatBytes = 4;
/// a / b, rounded up.
constexpr int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// What a tensor of the CPU takes beside its bytes: from 2 MiB on it is in huge pages
/// (base/heap.h), the last of which is there whole.
constexpr int64_t page_rest(int64_t bytes) {
  constexpr int64_t kPage = 2 << 20;
  return bytes < kPage ? 0 : divided_up(bytes, kPage) * kPage - bytes;
}

/// A sample as the plan takes all of them to be.
struct SampleShape {
  int64_t tokens = 0;
  /// Those that have a loss.
  int64_t targets = 0;
  int64_t pictures = 0;
  /// Pixels of each, multiples of the vision tower's merged patches.
  int64_t height = 0, width = 0;
};

/// The largest that config allows: model.seq_length tokens and, with a vision tower, one square
/// picture as large as the model, dataset.image_max_edge and image_max_tokens, and the tokens take.
SampleShape largest_sample(const ModelConfig& model, const TrainConfig& config);
/// Sets height and width to what becomes of a picture of that size (image_grid). Throws UserError
/// where the tokens of the pictures are more than the sample has.
void set_picture(SampleShape& sample, const ModelConfig& model, const TrainConfig& config,
                 int64_t height, int64_t width);
/// Ids of all pictures of a sample, row ends included.
int64_t picture_tokens(const SampleShape& sample, const ModelConfig& model);

/// How a run trains on ranks, beside its config.
struct PlannedRun {
  TrainConfig config;
  ModelShape shape;
  SampleShape sample;
  /// By the kernels of a card, or by torch's operators on the CPU: what they keep differs.
  bool on_card = false;

  int64_t element_bytes() const { return config.dtype() == at::kFloat ? 4 : 2; }
  /// Tokens of a forward, over all context ranks.
  int64_t tokens_of_micro_batch() const;
  /// Samples of a forward.
  int64_t samples_of_micro_batch() const;
  /// Forwards of a data rank in a step.
  int64_t micro_batches(const Topology& topology) const;
};

/// Whether ranks with the same weights share it out, as peft.shard_base says
/// (linear/base_shards.h).
bool is_shared_out(const PlannedWeight& weight, const PlannedRun& run);
/// Ranks that sum its gradient, and with a distributed optimizer share its update out.
int64_t ranks_that_sum(const PlannedWeight& weight, const Topology& topology);

}  // namespace trestle
