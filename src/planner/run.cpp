#include "planner/run.h"

#include <algorithm>

#include "base/error.h"
#include "image/pixels.h"

namespace trestle {

namespace {

ImageProcessorConfig picture_limits(const ModelConfig& model, const TrainConfig& config) {
  ImageProcessorConfig limits;
  limits.longest_edge = model.vision->image_size;
  if (config.dataset.image_max_edge > 0) {
    limits.longest_edge = std::min(limits.longest_edge, config.dataset.image_max_edge);
  }
  limits.max_tokens = config.dataset.image_max_tokens;
  limits.patch_size = model.vision->patch_size;
  limits.spatial_merge_size = model.projector.spatial_merge_size;
  return limits;
}

}  // namespace

int64_t picture_tokens(const SampleShape& sample, const ModelConfig& model) {
  if (sample.pictures == 0) return 0;
  const int64_t side = model.vision->patch_size * model.projector.spatial_merge_size;
  return sample.pictures * (sample.height / side) * (sample.width / side + 1);
}

void set_picture(SampleShape& sample, const ModelConfig& model, const TrainConfig& config,
                 int64_t height, int64_t width) {
  const ImageGrid grid = image_grid(height, width, picture_limits(model, config));
  sample.height = grid.height;
  sample.width = grid.width;
  if (const int64_t tokens = picture_tokens(sample, model); tokens > sample.tokens) {
    user_error(
        "{} picture{} of {} x {} pixels take {} tokens, but a sample has {}; make them "
        "smaller or fewer",
        sample.pictures, sample.pictures == 1 ? "" : "s", sample.width, sample.height, tokens,
        sample.tokens);
  }
}

SampleShape largest_sample(const ModelConfig& model, const TrainConfig& config) {
  SampleShape sample{.tokens = config.model.seq_length};
  if (model.vision) {
    ImageProcessorConfig limits = picture_limits(model, config);
    const int64_t most = limits.max_tokens;
    limits.max_tokens = most == 0 ? sample.tokens : std::min(most, sample.tokens);
    // The smallest picture may be more than a short sample has room for.
    const ImageGrid grid = image_grid(limits.longest_edge, limits.longest_edge, limits);
    if (grid.tokens <= sample.tokens) {
      sample.pictures = 1;
      sample.height = grid.height;
      sample.width = grid.width;
    }
  }
  sample.targets = std::max<int64_t>(1, sample.tokens - picture_tokens(sample, model));
  return sample;
}

int64_t PlannedRun::samples_of_micro_batch() const {
  const int64_t size = config.train.micro_batch_size;
  if (!config.dataset.pack_sequences_in_batch) return size;
  return std::max<int64_t>(1, size * config.model.seq_length / sample.tokens);
}

int64_t PlannedRun::tokens_of_micro_batch() const {
  return samples_of_micro_batch() * sample.tokens;
}

int64_t PlannedRun::micro_batches(const Topology& topology) const {
  return divided_up(config.train.global_batch_size, samples_of_micro_batch() * topology.data);
}

bool is_shared_out(const PlannedWeight& weight, const PlannedRun& run) {
  return run.config.peft.shard_base && !weight.trains && weight.split != Split::kReplicated &&
         weight.name.starts_with("language_model.decoder.layers.");
}

int64_t ranks_that_sum(const PlannedWeight& weight, const Topology& topology) {
  const int64_t same = topology.data * topology.context;
  return weight.split == Split::kReplicated ? same * topology.tensor : same;
}

}  // namespace trestle
