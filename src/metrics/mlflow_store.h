// MLflow's local file store as its FileStore lays it out: a folder an experiment, in it a folder a
// run. Called by the MLflow run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// What MLflow allows (mlflow/utils/validation.py).
constexpr size_t kMlflowName = 500, kMlflowKey = 250, kMlflowParam = 6000, kMlflowTag = 8000;

/// Why MLflow would not take the name of a tag, a parameter or a metric, which is a path below the
/// run's folder; nothing where it would.
std::optional<std::string> mlflow_name_problem(std::string_view name);

/// The folder that a tracking URI names: a path, or a `file:` URI. `key` names it in the UserError
/// for all others, which are servers' and databases'.
std::filesystem::path mlflow_folder(const std::string& uri, std::string_view key);

/// Milliseconds since 1970.
int64_t mlflow_time();
/// A folder under a store as MLflow writes its address.
std::string mlflow_uri(const std::filesystem::path& folder);

/// The folder of the experiment of that name, which is made, and the store around it, where there
/// is none. Throws UserError for one that was deleted, MachineError when nothing can be written.
std::filesystem::path mlflow_experiment(const std::filesystem::path& store,
                                        const std::string& name);

/// A run's meta.yaml.
struct MlflowMeta {
  /// mlflow/entities/run_status.py
  enum Status { kRunning = 1, kFinished = 3, kFailed = 4, kKilled = 5 };

  std::string experiment_id, run_id, run_name, user_id;
  std::string artifact_uri;
  Status status = kRunning;
  int64_t start_time = 0;
  std::optional<int64_t> end_time = {};

  std::string yaml() const;
};

/// When the run whose meta.yaml this is began; nothing where it does not say so.
std::optional<int64_t> mlflow_start_time(const std::filesystem::path& meta);

}  // namespace trestle
