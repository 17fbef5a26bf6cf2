// JSON rows to conversations: OpenAI-style messages, and the shapes that data sets on the Hugging
// Face hub have. Called by `trestle tokenize --chat`, by the data sets of own rows and by the
// server.
#pragma once

#include <string>

#include "base/json.h"
#include "chat/chat.h"
#include "chat/keys.h"

namespace trestle {

/// The row with values where it has their JSON texts, and "messages" for "texts"; what
/// parse_conversation begins with.
void make_plain_row(Json& row, const std::string& what);

/// `row`: {"messages" | "conversations": [...] or its JSON text, or "texts": [{"user",
/// "assistant"}]; "system" | "system_prompt" | "system_message": a text, which becomes the first
/// message; "tools":
/// [...] | JSON text; "image" | "images": PICTURE or a list of them}. A message: "role" (or "from":
/// human, gpt, function_call, observation), "content" (or "value") a string, null or a list of
/// {"type": "text", "text"}, {"type": "image", PICTURE's keys} or with "width" and "height" alone,
/// {"type": "image_url", "image_url": PICTURE}, {"type": "thinking", "thinking", "closed"}; of an
/// assistant also "tool_calls", "reasoning" or "reasoning_content", "prefix", and "weight",
/// "train", "training" or "loss" (0 or false: not trained); of a tool "tool_call_id" and "name",
/// which must be its call's. PICTURE: a path, a URL, a data: URI or bare base64 of a JPEG, PNG or
/// WebP; or an object with one of "bytes" (Json's binary, or base64), "base64", "path", "url",
/// "image", "image_url". What says nothing (chat/keys.h) counts as absent. The row's own images
/// fill, in order, {"type": "image"} parts that name nothing and "<image>" in texts of the user
/// (with the one line break beside it); if there is neither, they open the first user message.
/// Images carry no grid yet. `what` opens the UserError of a row of another shape, of a key that
/// would be lost, and, in data sets, of an "<image>" without a picture.
Conversation parse_conversation(Json row, const std::string& what,
                                OtherKeys others = OtherKeys::kOfDataSets);

}  // namespace trestle
