// Bytes of a rank: what it holds at the moment when it holds most. Called by `trestle plan`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/run.h"

namespace trestle {

/// Of libraries what a step touches, as measured of a model of 3 million parameters
/// (bench/plan.py).
constexpr int64_t kProgramBytes = 60'000'000;

/// Of one rank, at one moment of a step, in bytes.
struct MemoryPlan {
  /// As held (peft.base_bits), with what DoRA keeps of them.
  int64_t weights = 0;
  int64_t gradients = 0;
  /// fp32 masters of weights below fp32, and two moments.
  int64_t optimizer = 0;
  /// Kept for the backward pass, of all micro-batches on their way, and what passes in one layer.
  int64_t activations = 0;
  int64_t logits = 0;
  /// Buckets of gradients, gathered sequences, what goes to the next stage.
  int64_t communication = 0;
  /// Of the step's samples: pixels and ids, on the CPU alone.
  int64_t samples = 0;
  /// On the CPU what no tensor counts: the program, and the last huge page of each large tensor.
  int64_t process = 0;
  /// Pipeline stage, and when: "loss", "backward's begin", "backward's end" or "update".
  int64_t stage = 0;
  std::string moment;

  int64_t total() const {
    return weights + gradients + optimizer + activations + logits + communication + samples +
           process;
  }
};

/// The largest of all stages and moments.
MemoryPlan memory_of(const PlannedRun& run, const Topology& topology);
/// Of one stage, by moments in their order.
std::vector<MemoryPlan> moments_of(const PlannedRun& run, const Topology& topology, int64_t stage);

}  // namespace trestle
