// Tools and calls of them as JSON. Called by the reader of conversations.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "chat/chat.h"
#include "chat/keys.h"

namespace trestle {

/// The row's "tools", a list or its JSON text, each as {"type": "function", "function": {...}} or
/// the function alone; null where there are none. Throws UserError, opened by `what`.
Json read_tools(const Json& row, const std::string& what);

/// A list of {"id", "type", "function": {"name", "arguments": object or JSON text}}, or its JSON
/// text. Throws UserError, opened by `place`.
std::vector<ToolCall> read_calls(const Json& calls, OtherKeys others, const std::string& place);

/// LLaMA-Factory's: the JSON text of {"name", "arguments"}, or of a list of them. Throws likewise.
std::vector<ToolCall> read_function_call(const Json& text, OtherKeys others,
                                         const std::string& place);

}  // namespace trestle
