// JSON rows to conversations: OpenAI-style messages, and the shapes that data sets on the Hugging
// Face hub have. Called by `trestle tokenize --chat`, by the jsonl data set and by the server.
#pragma once

#include <string>

#include "base/json.h"
#include "data/chat.h"

namespace trestle {

/// `row`: {"messages" | "conversations": [...], "tools": [...] | JSON text | null, "image" |
/// "images": ...}. A message: "role" (or "from": human, gpt), "content" (or "value") a string, null
/// or a list of
/// {"type": "text", "text"}, {"type": "image", "path" | "url" | "image"} or with "width" and
/// "height" alone,
/// {"type": "image_url", "image_url": url | {"url"}}, {"type": "thinking", "thinking", "closed"};
/// of an assistant also "tool_calls", "reasoning" or "reasoning_content", "prefix", "weight" (0:
/// not trained); of a tool "tool_call_id". The row's own images fill, in order, {"type": "image"}
/// parts that name nothing and "<image>" in strings (with the one line break beside it); if there
/// is neither, they open the first user message. Images carry no grid yet. `what` opens the
/// UserError of a row of another shape.
Conversation parse_conversation(const Json& row, const std::string& what);

}  // namespace trestle
