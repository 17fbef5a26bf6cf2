// What a run tells while it trains: metrics.jsonl, and a progress line with the time left. Called
// by the trainer.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "generate/evaluate.h"

namespace trestle {

struct StepMetrics;

/// What a validation behind step `step` found; a line of metrics.jsonl.
struct ValidationMetrics {
  int64_t step = 0;
  /// Mean over the targets of the rows it took.
  double loss = 0;
  /// By name: exact_match, field_f1, ...; higher is better. Empty where only the loss was asked
  /// for.
  std::map<std::string, double> scores;
  /// Some of the answers that the scores are of.
  std::vector<ScoredAnswer> answers;
  double seconds = 0;
};

class MetricsLog {
 public:
  /// Keeps the lines of steps up to `first_step`, the step that a resumed run goes on from, and
  /// drops later ones: they are about to be made again.
  MetricsLog(const std::filesystem::path& path, int64_t first_step, int64_t last_step);

  void write(const StepMetrics& metrics);
  void write(const ValidationMetrics& metrics);
  /// step, loss, lr, gradient norm, tokens a second and the time left, to stderr.
  void print_progress(const StepMetrics& metrics) const;

 private:
  void append(const Json& line);

  std::filesystem::path path_;
  std::ofstream file_;
  int64_t first_step_, last_step_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace trestle
