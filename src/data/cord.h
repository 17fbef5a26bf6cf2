// cord-v2's ground truth as the text a model writes, and back (Donut's json2token and token2json).
// Called by the data set, by evaluation and by the demo's report.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace trestle {

/// `<s_key>value</s_key>` for each key in descending order, lists joined by `<sep/>`: Donut's
/// json2token with sort_json_key, whose text is what the field's cord-v2 numbers are measured on.
std::string json_to_tags(const Json& value);

/// The reverse, as far as the text is well formed; what cannot be parsed is left out. One item of a
/// list without
/// `<sep/>` comes back as the item. Never throws.
Json tags_to_json(std::string_view text);

/// Every leaf as (path, value): ("menu.0.nm", "Iced Tea"). A list of one and its item alone have
/// the same paths.
std::vector<std::pair<std::string, std::string>> flat_fields(const Json& value);

}  // namespace trestle
