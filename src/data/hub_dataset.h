// A data set by its name on the Hugging Face Hub: the Parquet files of one split of it. Called by
// the table of makers.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hub/files.h"

namespace trestle {

struct HubData {
  /// In huggingface_hub's cache, in the order of their rows; empty where there is no such split.
  std::vector<std::filesystem::path> files;
  /// "it has those of train, test", where there is none.
  std::string splits;
};

/// The repository's own Parquet files of a subset (HubLayout) and a split, or, of `main`, where it
/// has none, those that the Hub makes of other forms (refs/convert/parquet); what is missing is
/// downloaded. Throws as fetch_snapshot (hub.h) does, and UserError for a repository without any.
HubData fetch_hub_data(const HubName& name, const std::string& subset, const std::string& split);

/// The snapshot of a commit, SNAPSHOTS/COMMIT, that a file lies in; empty where it lies in none.
std::filesystem::path snapshot_of(const std::filesystem::path& file);

}  // namespace trestle
