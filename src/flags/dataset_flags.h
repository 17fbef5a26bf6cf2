// The flags with which `trestle evaluate` and `trestle data` name a data set, and the set that they
// name.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/datasets.h"
#include "flags/command.h"

namespace trestle {

struct DatasetFlags {
  std::string maker = "make_cord_v2_dataset", path, split, subset;
  std::optional<Flag> split_flag = {};

  void add_to(Command command, std::string default_split);
  /// Says on stderr which files it reads. Throws UserError where --split or --subset is given and
  /// chooses nothing.
  std::unique_ptr<Dataset> open() const;
};

}  // namespace trestle
