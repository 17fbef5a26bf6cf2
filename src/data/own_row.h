// A row of people's own data in any shape that it has as JSON. Called by the makers of own data.
#pragma once

#include <string>

#include "base/json.h"
#include "chat/chat.h"

namespace trestle {

/// Whether there is a conversation in it: messages (chat/json.h), or a question and its answer
/// (chat/exchange.h).
bool is_own_row(const Json& row);

/// Its conversation; a question and its answer become two messages. Throws UserError, opened by
/// `what`.
Conversation read_own_row(Json row, const std::string& what);

/// The answer to the question; null for messages. Throws likewise.
Json own_ground_truth(Json row, const std::string& what);

}  // namespace trestle
