// Bytes of tensors that live at a time, as torch's allocator counts them: the same in every run,
// unlike the process's resident memory. Shared by the tests of several stages.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace trestle::testing {

class MemoryCount : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* pointer, int64_t bytes, size_t allocated, size_t reserved,
                         c10::Device device) override {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }
  int64_t live() const { return live_; }

 private:
  int64_t live_ = 0, peak_ = 0;
};

/// The most bytes that `action` held at a time beside those that were there before it.
int64_t peak_bytes(const auto& action) {
  const auto count = std::make_shared<MemoryCount>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, count);
    action();
  }
  return count->peak();
}

/// The bytes that live behind `action` while what it returns does, beside those before it: of a
/// forward, its result and what is kept for the backward pass.
int64_t held_bytes(const auto& action) {
  const auto count = std::make_shared<MemoryCount>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, count);
  const auto result = action();
  return count->live();
}

}  // namespace trestle::testing
