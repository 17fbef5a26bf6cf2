// Whether a JSON is a JSON Schema of draft 7, as Python's jsonschema checks it for mistral-common:
// every keyword of the meta-schema has its kind, and a pattern is a regular expression of Python's.
// Called by the reader of a conversation's settings.
#pragma once

#include <string>

#include "base/json.h"

namespace trestle {

/// Throws UserError, opened by `where` and the path to the keyword, for the first that is not in
/// order. Keywords that draft 7 has not are free.
void require_json_schema(const Json& schema, const std::string& where);

}  // namespace trestle
