// What a run tells while it trains: metrics.jsonl, and a progress line with the time left. Called
// by the trainer.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>

namespace trestle {

struct StepMetrics;

class MetricsLog {
 public:
  /// Keeps the lines of steps up to `first_step`, the step that a resumed run goes on from, and
  /// drops later ones: they are about to be made again.
  MetricsLog(const std::filesystem::path& path, int64_t first_step, int64_t last_step);

  void write(const StepMetrics& metrics);
  /// step, loss, lr, gradient norm, tokens a second and the time left, to stderr.
  void print_progress(const StepMetrics& metrics) const;

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  int64_t first_step_, last_step_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace trestle
