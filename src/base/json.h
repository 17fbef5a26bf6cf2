// JSON read from files nobody vouches for: bounded in size and depth, errors name the file.
// nlohmann-json does the rest.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace trestle {

using Json = nlohmann::ordered_json;

/// Parses text; `what` names it in the UserError of malformed or too deeply nested (> 100 levels)
/// input.
Json parse_json(std::string_view text, std::string_view what);
/// Likewise, and no object says a key twice: the first of the two would be lost.
Json parse_json_of_single_keys(std::string_view text, std::string_view what);
/// A file of single keys.
Json read_json(const std::filesystem::path& path);
/// What a message shows of a value that nobody vouches for: one line of at most 64 bytes.
std::string excerpt(const Json& value);
/// Two-space indent and a final newline, as Hugging Face files have it; atomic.
void write_json(const std::filesystem::path& path, const Json& value);

}  // namespace trestle
