// Keys `profiling.`: which steps are traced.
#pragma once

#include <cstdint>
#include <tuple>

#include "base/fields.h"
#include "recipes/bounds.h"

namespace trestle {

struct ProfilingOptions {
  bool use_pytorch_profiler = false;
  /// Steps [start, end), counted from 1 as in metrics.jsonl.
  int64_t profile_step_start = 10;
  int64_t profile_step_end = 12;
  bool pytorch_profiler_collect_shapes = false;
  static constexpr auto fields() {
    return std::tuple(
        field("use_pytorch_profiler", &ProfilingOptions::use_pytorch_profiler, OnResume::kFree,
              "writes RUN/torch_profile/rank-0.json, a Chrome trace"),
        field("profile_step_start", &ProfilingOptions::profile_step_start, OnResume::kFree,
              between(0, kMostSteps), "the first step in it"),
        field("profile_step_end", &ProfilingOptions::profile_step_end, OnResume::kFree,
              between(1, kMostSteps), "the first step behind it"),
        field("pytorch_profiler_collect_shapes", &ProfilingOptions::pytorch_profiler_collect_shapes,
              OnResume::kFree, "with the shapes of each operation's tensors"));
  }
};

}  // namespace trestle
