#include "train/micro_batches.h"

#include <utility>

namespace trestle {

std::vector<std::vector<size_t>> micro_batches(const TrainConfig& config,
                                               const std::vector<Sample>& samples) {
  const int64_t size = config.train.micro_batch_size;
  if (!config.dataset.pack_sequences_in_batch) {
    return consecutive_groups(samples.size(), static_cast<size_t>(size));
  }
  std::vector<int64_t> lengths;
  for (const Sample& sample : samples) lengths.push_back(std::ssize(sample.ids));
  return packed_groups(lengths, size * config.model.seq_length);
}

std::vector<Sample> take(std::vector<Sample>& samples, const std::vector<size_t>& group) {
  std::vector<Sample> taken;
  for (const size_t i : group) taken.push_back(std::move(samples[i]));
  return taken;
}

}  // namespace trestle
