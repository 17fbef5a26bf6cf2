// progress.txt as Megatron writes it with logger.log_progress: when sessions of a run began, and
// how far it was at each checkpoint. Called by the metrics log.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>
#include <filesystem>

namespace trestle {

/// What a run has done so far, by the steps that metrics.jsonl has.
struct Totals {
  double flops = 0;
  int64_t tokens = 0;
};

class ProgressLog {
 public:
  /// Adds the line of a session's start to RUN/progress.txt. Throws MachineError when it cannot be
  /// written.
  ProgressLog(const std::filesystem::path& run, const Totals& before);

  /// Adds the line of a checkpoint behind step `step`: the session's model TFLOP/s and those since
  /// the first session that the file tells of, whatever lay between them.
  void saved(int64_t step, const Totals& now) const;

 private:
  void append(std::string_view text) const;

  std::filesystem::path path_;
  double before_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  /// Of the first session.
  std::time_t first_start_;
  double first_flops_;
};

}  // namespace trestle
