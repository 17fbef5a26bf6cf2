// Data sets as conversations, row by row. A new one is a maker: a function from a path to a
// Dataset, and a line in the table in datasets.cpp. Called by the trainer and by evaluation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/chat.h"

namespace trestle {

/// row() and ground_truth() may be called from many threads at once: a set keeps an index and reads
/// the row when asked, or guards the reader that it keeps.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Prompt and answer; pictures not loaded yet. Throws UserError naming file and row.
  virtual Conversation row(int64_t index) const = 0;
  /// What the answer should say, for metrics: cord-v2's gt_parse; null where the set has none.
  virtual Json ground_truth(int64_t index) const { return nullptr; }
};

/// Names as Megatron Bridge has them (make_cord_v2_dataset), and those of own data: `jsonl`,
/// `parquet`, `webdataset` (datasets_own.h).
std::vector<std::string> dataset_makers();

/// `path`: a file, or for Parquet and WebDataset a directory whose *.parquet or *.tar files of
/// `split` ("train", "test", ...; "" is all) are taken: those that have the split in their names.
/// Throws UserError for an unknown maker (naming the nearest).
std::unique_ptr<Dataset> make_dataset(const std::string& maker, const std::filesystem::path& path,
                                      const std::string& split);

/// Whether `path` is a directory with *.parquet or *.tar files of `split`.
bool has_split(const std::filesystem::path& path, const std::string& split);

}  // namespace trestle
