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

/// The file of an experiment's folder and of a run's that says what it is.
constexpr const char* kMlflowMeta = "meta.yaml";

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
  enum Status { kRunning = 1, kScheduled = 2, kFinished = 3, kFailed = 4, kKilled = 5 };

  std::string experiment_id, run_id, run_name, user_id;
  std::string artifact_uri;
  Status status = kRunning;
  int64_t start_time = 0;
  std::optional<int64_t> end_time = {};
  /// "active", or "deleted" and when that was.
  std::string lifecycle_stage = "active";
  std::optional<int64_t> deleted_time = {};

  std::string yaml() const;
  /// Nothing where there is no such file or it is none of a run.
  static std::optional<MlflowMeta> read(const std::filesystem::path& path);
};

/// The folder of the run of that id, in whatever experiment, deleted ones too; nothing for none.
std::optional<std::filesystem::path> mlflow_run_folder(const std::filesystem::path& store,
                                                       const std::string& run_id);
/// The name of the experiment, deleted ones too, that has the run of that id; nothing for none.
std::optional<std::string> mlflow_experiment_of(const std::filesystem::path& store,
                                                const std::string& run_id);

/// A tag or a parameter as its file says it; nothing where there is none that can be read.
std::optional<std::string> mlflow_text(const std::filesystem::path& path);

/// As Megatron Bridge calls what would be a file and a folder here.
std::string mlflow_metric_name(const std::string& scalar);
/// Whether runs write it (is_scalar_of_runs).
bool is_mlflow_metric_of_runs(const std::string& name);

}  // namespace trestle
