// JSON as Python writes it, which is what the models saw in tool calls, tool lists, tool results
// and settings. Called by the chat encoder only.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// json.dumps(json.loads(text), ensure_ascii=False): `", "` and `": "`, Python's spelling of
/// numbers, the last of doubled keys. Nothing when `text` is not JSON. Throws UserError when it
/// nests deeper than 100.
std::optional<std::string> python_json(std::string_view text);

/// json.dumps of a string.
std::string python_json_string(std::string_view text);

}  // namespace trestle
