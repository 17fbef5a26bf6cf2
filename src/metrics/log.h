// What a run tells while it trains: metrics.jsonl, TensorBoard, Weights & Biases, MLflow,
// progress.txt, report.html, and a progress line with the time left (docs/metrics.md). Called by
// the trainer.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "metrics/mlflow.h"
#include "metrics/progress_log.h"
#include "metrics/run_report.h"
#include "metrics/tensorboard.h"
#include "metrics/values.h"
#include "metrics/wandb.h"
#include "recipes/config.h"

namespace trestle {

/// How a run ended: at its last step, before it as asked for, by a signal (there is little time
/// then), or by an error.
enum class RunEnd { kFinished, kStopped, kInterrupted, kFailed };

class MetricsLog {
 public:
  /// Writes under checkpoint.save. Keeps the lines of steps up to `first_step`, the step that a
  /// resumed run goes on from, and drops later ones: they are about to be made again, by `ranks`.
  /// Throws MachineError when the disk is full, UserError for settings of W&B or MLflow that are
  /// wrong.
  MetricsLog(const TrainConfig& config, int64_t first_step, int64_t ranks = 1);
  /// A run that was not finished has failed.
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void write(const StepMetrics& metrics);
  void write(const ValidationMetrics& metrics);
  /// step, loss, lr, gradient norm, tokens a second and the time left, to stderr.
  void print_progress(const StepMetrics& metrics) const;
  /// Loss and scores of a validation.
  static void print_progress(const ValidationMetrics& metrics);
  /// Behind the step written last: a checkpoint is being saved, and perhaps whole already.
  void checkpoint_taken();
  /// Renews report.html, and tells MLflow and progress.txt of the checkpoint behind step `step`.
  void checkpoint_saved(int64_t step);
  /// The last thing told; may wait for W&B's upload.
  void finish(RunEnd end);

 private:
  void append(const Json& line);
  void write_scalars(int64_t step, const Scalars& scalars);
  void add_to_totals(const Json& line);

  std::filesystem::path path_;
  std::ofstream file_;
  int64_t first_step_, last_step_;
  LoggerOptions options_;
  int64_t global_batch_size_;
  Totals totals_;
  RunReport report_;
  std::unique_ptr<WandbRun> wandb_;  // first, as its settings may be wrong
  std::unique_ptr<MlflowRun> mlflow_;
  std::optional<ProgressLog> progress_;
  TensorBoardWriter tensorboard_;
  bool finished_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace trestle
