// Whether Python's `re` compiles a pattern: what mistral-common asks of the patterns in a JSON
// Schema. Called by require_json_schema only.
#pragma once

#include <string>
#include <string_view>

namespace trestle {

/// Throws UserError, opened by `where`, for a pattern that re.compile (Python 3.11) refuses, and
/// for one whose groups nest deeper than 100. Names of characters (\N{...}) are not looked up.
void require_python_regex(std::string_view pattern, const std::string& where);

}  // namespace trestle
