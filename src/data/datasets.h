// Data sets as conversations, row by row. A new one is a maker: a function from a path to a
// Dataset, and a line in the table in datasets.cpp. Called by the trainer and by evaluation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "chat/chat.h"

namespace trestle {

/// Of several data sets that are learnt from together (data/blend.h), one: its rows stand behind
/// those of the one before.
struct BlendPart {
  int64_t rows = 0;
  double weight = 1;
};

/// row() and ground_truth() may be called from many threads at once: a set keeps an index and reads
/// the row when asked, or guards the reader that it keeps.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// The files that it reads, in order; pictures that rows name are not among them.
  virtual std::vector<std::filesystem::path> files() const = 0;
  /// Prompt and answer; pictures not loaded yet. Throws UserError naming file and row.
  virtual Conversation row(int64_t index) const = 0;
  /// What the answer should say, for metrics: cord-v2's gt_parse; null where the set has none.
  virtual Json ground_truth(int64_t index) const { return nullptr; }
  /// Columns of its files that it does not read and that nobody knows, and in how many rows at most
  /// they say something. What rows read and leave is in their Conversation::unread.
  virtual std::map<std::string, int64_t> unknown_columns() const { return {}; }
  /// For messages: "row 7 of NAME".
  virtual std::string row_name(int64_t index, const std::string& name) const;
  /// One, but for a blend.
  virtual std::vector<BlendPart> parts() const { return {{size(), 1}}; }
};

/// What is read, and which of it.
struct DataName {
  /// A file, a directory or a pattern, or for Parquet ORG/NAME[@REVISION] on the Hugging Face Hub.
  std::string path;
  /// "train", "test", ...; "" is all.
  std::string split = {};
  /// Of a data set on the Hub, which `datasets` calls a config; "" is its default.
  std::string subset = {};
  /// The flag or key that has the path, for errors.
  std::string_view key = "dataset.path_or_dataset";
};

/// Names as Megatron Bridge has them (make_cord_v2_dataset), and those of own data: `jsonl`,
/// `parquet`, `webdataset` (datasets_own.h).
std::vector<std::string> dataset_makers();
/// Of a name that is no maker's: "did you mean jsonl? there are ...".
std::string suggest_maker(const std::string& name);

/// The data set on the Hub that a maker of Megatron Bridge's is for, and its subset; both empty for
/// own data. Throws UserError for an unknown maker.
DataName hub_name_of_maker(const std::string& maker);

/// Whether `path` is the name of a data set on the Hub: one that does not exist here, for a maker
/// that reads Parquet. What ends in .parquet is a path. Throws UserError for an unknown maker.
bool is_on_hub(const std::string& maker, const std::string& path);

/// Of a directory the *.parquet or *.tar files of the split are taken (splits.h), of a name those
/// in the cache once they are downloaded (hub_dataset.h). Throws UserError for an unknown maker,
/// and with the key in it for what cannot be read.
std::unique_ptr<Dataset> make_dataset(const std::string& maker, const DataName& name);
std::unique_ptr<Dataset> make_dataset(const std::string& maker, const std::filesystem::path& path,
                                      const std::string& split);

/// Whether a split chooses among the files of `path`: not where that is one file, a pattern, or
/// lines of JSON, which are read whole whatever the split. Throws UserError for an unknown maker.
bool split_matters(const std::string& maker, const std::filesystem::path& path);
/// Nothing where it does and there are files of the split. Else what there is in their stead: "it
/// has those of train, test".
std::optional<std::string> why_no_split(const std::string& maker, const DataName& name);

/// One line for whoever starts a run: "PATH: 2 files, train-0.parquet, train-1.parquet"; of a data
/// set on the Hub its commit too.
std::string describe_files(const Dataset& dataset, const std::filesystem::path& path);

}  // namespace trestle
