// What a conversation sets of the model: read from the keys that OpenAI's API has for it, checked
// against the tokenizer and written as the models saw it. The rules are mistral-common's. Called by
// the reader of conversations (json.h), by ChatEncoder and by the commands with --reasoning-effort.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chat/chat.h"

namespace trestle {

/// "reasoning_effort" and "response_format" of a row: {"type": "text"}, {"type": "json_object"} or
/// {"type": "json_schema", "json_schema": {"name", "description", "schema", "strict"}}, or a text
/// of such JSON. Throws UserError, opened by `what`, for any other and for a schema that is none.
ModelSettings read_settings(const Json& row, const std::string& what);

/// What stands between [MODEL_SETTINGS] and [/MODEL_SETTINGS], the tokenizer's default effort
/// included; empty where nothing does, as in layouts before v15. Throws UserError for what the
/// tokenizer does not let a conversation set.
std::string settings_json(const ModelSettings& settings, const Tokenizer& tokenizer, int version);

/// Throws UserError, opened by `name`, unless the tokenizer's layout has reasoning efforts and this
/// is one of its own. `version` is the layout's.
void require_effort(std::string_view effort, const Tokenizer& tokenizer, int version,
                    std::string_view name);

/// For the flag: gives the effort to a conversation that asks for none.
void add_reasoning_effort(Conversation& conversation, const std::optional<std::string>& effort);

}  // namespace trestle
