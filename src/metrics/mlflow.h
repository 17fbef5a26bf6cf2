// A run in MLflow's local file store, as `mlflow` itself would leave it there. Called by the
// metrics log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "metrics/mlflow_store.h"
#include "metrics/tensorboard.h"
#include "recipes/config.h"

namespace trestle {

class MlflowRun {
 public:
  /// Null where MLflow is off: no experiment. `first_step` > 0 goes on with the run whose id
  /// `checkpoint.save` keeps, where the store still has it; its values of later steps are dropped,
  /// as they are about to be made again. Throws UserError for what MLflow would not take,
  /// MachineError when nothing can be written.
  static std::unique_ptr<MlflowRun> start(const TrainConfig& config, int64_t first_step);
  /// Whether it may start, before anything is written. Throws UserError for names and values that
  /// MLflow would not take, and for a store that is no local folder or cannot be written in.
  static void check(const TrainConfig& config);

  /// Each value is a line of its metric's file when this returns.
  void write(int64_t step, const Scalars& scalars);
  /// With logger.mlflow_log_artifacts: the checkpoint becomes an artifact, its files links to those
  /// of the run where the disk can do that, copies where it cannot.
  void add_checkpoint(int64_t step);
  /// Ends the run, and says in one line where it is.
  void finish(MlflowMeta::Status status);

 private:
  MlflowRun(const TrainConfig& config, std::filesystem::path store, std::filesystem::path folder,
            MlflowMeta meta);
  std::ofstream& file_of(const std::string& metric);

  std::filesystem::path store_, folder_;
  MlflowMeta meta_;
  std::string experiment_;
  /// checkpoint.save, for its checkpoints; empty where they are not wanted.
  std::filesystem::path checkpoints_;
  std::map<std::string, std::ofstream> files_;
};

}  // namespace trestle
