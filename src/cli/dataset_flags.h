// The flags with which `trestle evaluate` and `trestle data` name a data set, and the set that they
// name.
#pragma once

#include <memory>
#include <string>

#include "data/datasets.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace trestle {

struct DatasetFlags {
  std::string maker = "make_cord_v2_dataset", path, split, subset;
  const CLI::Option* split_flag = nullptr;

  void add_to(CLI::App& command, std::string default_split);
  /// Says on stderr which files it reads. Throws UserError where --split or --subset is given and
  /// chooses nothing.
  std::unique_ptr<Dataset> open() const;
};

}  // namespace trestle
