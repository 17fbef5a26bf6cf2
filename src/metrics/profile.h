// A Chrome trace of some steps: profiling.use_pytorch_profiler. Called by the trainer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "recipes/config.h"

namespace trestle {

/// Records every operation of libtorch between the first and the last of the steps that the config
/// names, saves and validations among them, and writes RUN/torch_profile/rank-0.json where Megatron
/// Bridge has it. Each step is a range ProfilerStep#N. Only one may record at a time.
class StepProfile {
 public:
  explicit StepProfile(const TrainConfig& config);
  /// Writes what was recorded, where a step has failed.
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  void begin_step(int64_t step);
  /// Throws MachineError when the trace cannot be written.
  void end_step(int64_t step);
  /// Writes what was recorded so far, if anything.
  void finish();

 private:
  struct StepRange;

  std::filesystem::path path_;
  int64_t first_, end_;
  bool shapes_;
  bool recording_ = false;
  std::unique_ptr<StepRange> range_;
};

}  // namespace trestle
