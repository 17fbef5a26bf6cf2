// The MLflow run that a resumed run goes on with: which one it is, and what in it is people's.
// Called by the MLflow run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "metrics/mlflow_store.h"
#include "recipes/config.h"

namespace trestle {

/// The tag that says which run directory a run is of.
constexpr const char* kMlflowDirectory = "trestle.run_directory";

struct KnownMlflowRun {
  std::filesystem::path folder;
  MlflowMeta meta;
};

/// The run whose id `id_file`, of the run directory checkpoint.save, keeps, where it is in the
/// experiment's folder. Nothing, and a line on stderr that says why another run begins, where it is
/// in another experiment or none, was deleted, or is that of the run directory that this one was
/// copied from. Throws UserError for what is no id.
std::optional<KnownMlflowRun> known_mlflow_run(const TrainConfig& config,
                                               const std::filesystem::path& id_file,
                                               const std::filesystem::path& experiment);

/// Ends the run whose id the file keeps, where the store has it as RUNNING, as KILLED: whoever
/// wrote it was killed outright, and another run begins in its directory, which no other process
/// has. A line on stderr says so. A run of the directory that this one was copied from is left.
void end_killed_run(const std::filesystem::path& id_file, const std::filesystem::path& store);

/// Drops the steps behind `last` of metrics that runs write (scalars.h); those that somebody else
/// added to the run stay as they are.
void drop_later_steps(const std::filesystem::path& metrics, int64_t last);

/// Of names and texts that a run tells and people may change in MLflow since: what goes into the
/// store. `began` is what the run said when it began; only what still stands so gives way to
/// `wanted`, and a line on stderr says where something else stays.
struct TextInStore {
  std::string what;
  std::optional<std::string> there, began;
  std::string wanted;
};
std::string settled_text(const TextInStore& text);

/// Tags of logger.mlflow_tags by name. Throws UserError for one that is no name=value.
std::map<std::string, std::string> mlflow_tags(const std::vector<std::string>& tags);

/// Removes what a killed process left beside the files and artifacts of the run whose id the file
/// keeps, or had begun of the run itself.
void remove_mlflow_leftovers(const std::filesystem::path& id_file,
                             const std::filesystem::path& experiment);

}  // namespace trestle
