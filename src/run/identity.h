// What makes a run the run that it is: the values of its keys, and the contents of what they name.
// A checkpoint keeps it, and a run that goes on from there must have it again. Called by the
// trainer and train/checkpoint.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "bridge/load.h"
#include "data/content.h"
#include "recipes/config.h"

namespace trestle {

class Ministral3;

struct RunIdentity {
  /// The keys that must stay (OnResume::kSame, kSameContent) and their values as text.
  std::map<std::string, std::string> values;
  /// Of keys that are OnResume::kSameContent and name something: content_of it.
  std::map<std::string, std::string> contents;
  /// As a checkpoint may have the same otherwise, empty for a key that names nothing there: files'
  /// names count in those of before December 2026, and one set has two keys (resumed_data.h). Only
  /// to be compared with such, and not kept.
  std::map<std::string, std::string> named_contents = {};

  /// Whether `saved`, one of a checkpoint's contents, is what `key` names here.
  bool has_content(const std::string& key, const std::string& saved) const;
  Json to_json() const;
  /// Throws UserError, `what` first, where it is none.
  static RunIdentity from_json(const Json& json, std::string_view what);
};

/// rng.seed is the default's where nothing is drawn from it (TrainConfig::draws).
RunIdentity identity_of(const TrainConfig& config, std::map<std::string, std::string> contents);

/// peft.base_bits of a run on `base`, `auto` settled. A run that goes on stays as it was begun:
/// `saved` is what its checkpoint says, null where there is none or it says nothing. (Sums of
/// products with an FP8 base differ in their last bits from those with its values, which is what
/// runs had before they could keep it.) Throws UserError for `fp8` where nothing is in FP8.
std::string settled_base_bits(const LoraConfig& peft, const OpenCheckpoint& base,
                              const RunIdentity* saved);

/// Throws UserError naming every key that a resumed run must have again (OnResume) and `now` does
/// not, with both values, unless `may_change` has it. A content that one of the two does not know
/// is not compared. `from` is the run that is resumed. A key that `saved` does not have is one that
/// came later; it had its default. Returns those of `may_change` in which nothing differs.
std::set<std::string> require_same_run(const RunIdentity& saved, const RunIdentity& now,
                                       const std::set<std::string>& may_change,
                                       std::string_view from);

/// Throws UserError for a key that does not exist, or that may change anyway.
void require_changeable(const std::set<std::string>& may_change);

/// SHA-256 of a model: what its config says of shapes and arithmetic; names, dtypes, shapes and
/// values of its weights, whole up to 64 MiB, of large tensors in larger models four rows spread
/// over them, so that it takes no time beside loading them; tokenizer and processor files.
std::string content_of(const OpenCheckpoint& base);
/// SHA-256 of the adapters in a model, sampled likewise.
std::string content_of_adapters(const Ministral3& model);

}  // namespace trestle
