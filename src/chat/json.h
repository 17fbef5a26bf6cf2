// JSON rows to conversations: OpenAI-style messages, and the shapes that data sets on the Hugging
// Face hub have. Called by `trestle tokenize --chat`, by the data sets of own rows and by the
// server.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "chat/chat.h"
#include "chat/keys.h"

namespace trestle {

/// `row`: {"messages" | "conversations": [...], "tools": [...] | JSON text | null, "image" |
/// "images": PICTURE or a list of them}. A message: "role" (or "from": human, gpt), "content" (or
/// "value") a string, null or a list of {"type": "text", "text"}, {"type": "image", PICTURE's keys}
/// or with "width" and "height" alone, {"type": "image_url", "image_url": PICTURE}, {"type":
/// "thinking", "thinking", "closed"}; of an assistant also "tool_calls", "reasoning" or
/// "reasoning_content", "prefix", "weight" (0: not trained); of a tool "tool_call_id" and
/// "name", which must be its call's.
/// PICTURE: a path, a URL, a data: URI or bare base64 of a JPEG, PNG or WebP; or an object with one
/// of "bytes" (Json's binary, or base64), "base64", "path", "url", "image", "image_url". Nulls
/// count as absent.
/// The row's own images fill, in order, {"type": "image"} parts that name nothing and "<image>" in
/// strings (with the one line break beside it); if there is neither, they open the first user
/// message. Images carry no grid yet. `what` opens the UserError of a row of another shape, or of a
/// key that nobody reads (chat_keys.h).
Conversation parse_conversation(const Json& row, const std::string& what,
                                OtherKeys others = OtherKeys::kOfDataSets);

/// Relative paths of pictures become paths below `folder`.
void find_pictures_in(Conversation& conversation, const std::filesystem::path& folder);

}  // namespace trestle
