// Samples into batches: in which order rows are taken, and several samples packed into one model
// input. Called by the trainer and by evaluation.
#pragma once

#include <cstdint>
#include <vector>

#include "data/processor.h"
#include "model/ministral3.h"

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

/// One after another, without padding.
Batch collate(const std::vector<Sample>& samples);

}  // namespace trestle
