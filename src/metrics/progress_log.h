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
  /// Adds the line of a session's start, of `ranks`, to RUN/progress.txt. Throws MachineError when
  /// it cannot be written.
  ProgressLog(const std::filesystem::path& run, const Totals& before, int64_t ranks);

  /// Whoever saves has the checkpoint of here and now; what its line says is said of now, as the
  /// run goes on while it is written.
  void taken(const Totals& now);
  /// Adds the line of the checkpoint that was taken last, behind step `step`: a rank's model
  /// TFLOP/s of the session, and since the first session of as many ranks, whatever lay between
  /// them.
  void saved(int64_t step) const;

 private:
  void append(std::string_view text) const;

  std::filesystem::path path_;
  int64_t ranks_;
  double before_;
  /// At the checkpoint taken last; seconds of the session and since the first one.
  Totals taken_;
  double session_s_ = 0, all_s_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  /// Of the first session.
  std::time_t first_start_;
  double first_flops_;
};

}  // namespace trestle
