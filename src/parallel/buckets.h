// Tensors that are sent together. Called by the trainer's gradients and by the plan of their
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace trestle {

/// 25 MB of bf16 gradients, as torch's DistributedDataParallel has them in a bucket.
constexpr int64_t kBucketElements = 12 << 20;

/// Of tensors with so many elements those that begin a bucket, by number: each goes on until it has
/// kBucketElements, so a large tensor may make it larger and is never cut.
inline std::vector<size_t> bucket_starts(const std::vector<int64_t>& elements) {
  std::vector<size_t> starts;
  int64_t filled = kBucketElements;
  for (size_t i = 0; i < elements.size(); ++i) {
    if (filled >= kBucketElements) {
      starts.push_back(i);
      filled = 0;
    }
    filled += elements[i];
  }
  return starts;
}

}  // namespace trestle
