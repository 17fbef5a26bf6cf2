#include "data/batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace trestle {

SampleOrder::SampleOrder(int64_t rows, uint64_t seed, bool shuffle)
    : rows_(rows), seed_(seed), shuffle_(shuffle) {}

int64_t SampleOrder::row(int64_t sample) {
  if (!shuffle_) return sample % rows_;
  if (sample / rows_ != epoch_) {
    epoch_ = sample / rows_;
    order_.resize(static_cast<size_t>(rows_));
    std::iota(order_.begin(), order_.end(), 0);
    std::mt19937_64 random(seed_ + static_cast<uint64_t>(epoch_));
    // Fisher-Yates by hand: std::shuffle differs between standard libraries.
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  }
  return order_[static_cast<size_t>(sample % rows_)];
}

Batch collate(const std::vector<Sample>& samples) {
  std::vector<int64_t> ids, labels, lengths;
  std::vector<at::Tensor> images;
  for (const Sample& sample : samples) {
    ids.insert(ids.end(), sample.ids.begin(), sample.ids.end());
    labels.insert(labels.end(), sample.labels.begin(), sample.labels.end());
    lengths.push_back(static_cast<int64_t>(sample.ids.size()));
    images.insert(images.end(), sample.images_CHW.begin(), sample.images_CHW.end());
  }
  return {ModelInput::make(at::tensor(ids, at::kLong), std::move(lengths), std::move(images)),
          at::tensor(labels, at::kLong)};
}

std::vector<std::vector<size_t>> consecutive_groups(size_t samples, size_t size) {
  std::vector<std::vector<size_t>> groups;
  for (size_t i = 0; i < samples; ++i) {
    if (i % size == 0) groups.emplace_back();
    groups.back().push_back(i);
  }
  return groups;
}

std::vector<std::vector<size_t>> packed_groups(const std::vector<int64_t>& lengths,
                                               int64_t capacity) {
  std::vector<size_t> by_length(lengths.size());
  std::iota(by_length.begin(), by_length.end(), size_t{0});
  std::ranges::stable_sort(by_length, std::greater<>(), [&](size_t i) { return lengths[i]; });
  std::vector<std::vector<size_t>> groups;
  std::vector<int64_t> room;
  for (const size_t i : by_length) {
    const auto fits = std::ranges::find_if(room, [&](int64_t left) { return left >= lengths[i]; });
    const auto group = static_cast<size_t>(fits - room.begin());
    if (fits == room.end()) {
      groups.emplace_back();
      room.push_back(capacity);
    }
    groups[group].push_back(i);
    room[group] -= lengths[i];
  }
  return groups;
}

}  // namespace trestle
