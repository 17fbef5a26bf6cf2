// Which Parquet files of a data set's repository on the Hub are of which subset and split, as
// Hugging Face's `datasets` reads it from the README's `configs`. Pure; called by hub_dataset.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle {

/// What `datasets` calls a config. Files are named relative to the repository.
struct HubSubset {
  using Files = std::vector<std::string>;

  /// The splits that the README or the Hub's conversion names, with their files in the order of
  /// their rows; without any the names of `files` below `folder` tell them (splits.h).
  std::vector<std::pair<std::string, Files>> splits;
  std::string folder;
  std::vector<std::filesystem::path> files;

  bool has_parquet() const;
  /// "" is all splits. Empty where there are none of it. Throws UserError for a file that its name
  /// gives to two splits.
  Files of_split(const std::string& split) const;
  /// "it has those of train, test"
  std::string describe() const;
};

class HubLayout {
 public:
  /// `names`: the repository's files; `readme`: the text of its README.md, or nothing. Throws
  /// UserError for a README whose YAML is none, or whose `configs` are of another shape than
  /// `datasets` takes.
  HubLayout(const std::set<std::string>& names, std::string_view readme);
  /// Of refs/convert/parquet, which the Hub makes: SUBSET/SPLIT/0000.parquet.
  static HubLayout of_conversion(const std::set<std::string>& names);

  /// Without a name the only one, or the one that is called `default` or marked so. Throws
  /// UserError naming those that there are.
  HubSubset subset(const std::string& name) const;
  bool has_parquet() const { return !parquet_.empty(); }

 private:
  struct Config {
    std::vector<std::pair<std::string, std::vector<std::string>>> patterns;  // by split
    std::string folder;
    bool is_default = false;
  };

  HubLayout() = default;
  void read_configs(std::string_view front_matter);
  std::string settle_name(const std::string& name) const;
  void require_little_matching(const Config& config) const;
  HubSubset::Files matching(const std::vector<std::string>& patterns,
                            const std::string& folder) const;

  std::vector<std::string> parquet_;  // sorted
  std::map<std::string, Config> configs_;
  bool is_conversion_ = false;
};

}  // namespace trestle
