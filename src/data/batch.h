// Samples into batches: in which order rows are taken, which samples go together, and several of
// them packed into one model input. Called by the sample stream, the trainer and validation.
#pragma once

#include <cstdint>
#include <vector>

#include "data/processor.h"
#include "model/input.h"

namespace trestle {

/// Which row is the n-th sample of a run, for every n: each epoch is a permutation drawn from the
/// seed and the epoch's number, so that a run resumes from the count of samples alone.
class SampleOrder {
 public:
  SampleOrder(int64_t rows, uint64_t seed, bool shuffle);
  int64_t row(int64_t sample);

 private:
  int64_t rows_;
  uint64_t seed_;
  bool shuffle_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

struct Batch {
  ModelInput input;
  /// int64 [T], -100 where there is no target.
  at::Tensor labels_T;
};

/// One after another, without padding: positions restart and attention stays within each.
Batch collate(const std::vector<Sample>& samples);

/// Neighbours, `size` at a time: which of 0 .. samples-1 share a forward.
std::vector<std::vector<size_t>> consecutive_groups(size_t samples, size_t size);

/// The fewest groups that first-fit decreasing finds, each of at most `capacity` tokens, a sample
/// longer than that alone; longest first within a group, and of equal lengths the earlier first.
/// (Johnson 1973: at most 11/9 of the fewest there can be, and one.)
std::vector<std::vector<size_t>> packed_groups(const std::vector<int64_t>& lengths,
                                               int64_t capacity);

}  // namespace trestle
