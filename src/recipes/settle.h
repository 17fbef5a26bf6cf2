// How a run's config is settled from its recipe, a file and the command line, and which of its keys
// were asked for by name. Called by `trestle finetune`.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "recipes/config.h"

namespace trestle {

/// What was asked for, beside the config's values.
struct Asked {
  /// Keys that the command line names, and those to which the file gives another value than the
  /// recipe. One that cannot have an effect is refused.
  std::set<std::string> keys = {};
  /// Keys in which a resumed run may differ from what it was saved with.
  std::set<std::string> may_change = {};
};

struct SettledRun {
  TrainConfig config;
  Asked asked;
  /// A line each for whoever asked: a key that the command line gives two values, one of Megatron
  /// Bridge's that changes nothing here.
  std::vector<std::string> notes = {};
  /// Of keys that were given in Megatron Bridge's words (in_typed_words).
  std::map<std::string, std::string> typed = {};
};

/// The recipe, then the file's assignments, then the command line's. peft.scheme, wherever it
/// stands, decides the recipe's rates; `null` is the recipe's value. The last value of a key
/// counts. Keys may be Megatron Bridge's (bridge_keys.h). `is_resolved`: the file is a whole config
/// as a run leaves it, which asks for nothing by name. Throws UserError for keys and values that
/// are none.
SettledRun settle(const std::string& recipe, const std::vector<Assignment>& file,
                  const std::vector<Assignment>& command_line, bool is_resolved = false);

/// Megatron Bridge's commands name a maker and no data: without a path they are those on the Hub
/// that the maker is for. Throws UserError for an unknown maker.
void name_data(DatasetOptions& dataset);

}  // namespace trestle
