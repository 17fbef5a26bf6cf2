// Data sets that a key of the config names several of, each with more than a path: dataset.blend
// and validation.sets. Called by the groups of keys.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fields.h"

namespace trestle {

/// What is not said is as the run's other keys say it.
struct DataSource {
  std::string path = {};
  std::optional<std::string> maker_name = {}, split = {};
  std::string subset = {};
};

/// One data set of several that a run learns from.
struct BlendSource {
  DataSource data = {};
  /// Its share, as a part of the sum of all; where none says one, as many as it has rows.
  std::optional<double> weight = {};
};

/// One data set of several that a run is validated on.
struct ValidationSet {
  std::string name = {};
  DataSource data = {};
};

/// YAML's flow style: `[{path: a.jsonl, weight: 0.7, maker_name: jsonl}, {path: b, weight: 0.3}]`;
/// of a blend also as megatron-core has it, `[0.7, a, 0.3, b]`, `[a, b]` and `[[a, b], [0.7,
/// 0.3]]`. Throws UserError naming `key`: no list, an entry that nobody reads or that lacks its
/// path, a weight beside a source without one, a name that is none or stands twice.
void parse_value(std::string_view key, std::string_view text, std::vector<BlendSource>& value);
void parse_value(std::string_view key, std::string_view text, std::vector<ValidationSet>& value);
/// The first of these forms.
std::string format_value(const std::vector<BlendSource>& value);
std::string format_value(const std::vector<ValidationSet>& value);
inline FieldText::Kind kind_of(const std::vector<BlendSource>&) { return FieldText::Kind::kFlow; }
inline FieldText::Kind kind_of(const std::vector<ValidationSet>&) { return FieldText::Kind::kFlow; }

}  // namespace trestle
