// What a conversation must be for a layout version; the rules are mistral-common's. Called by
// ChatEncoder only.
#pragma once

#include "chat/chat.h"

namespace trestle {

/// Throws UserError naming the message. Checked: at least one message; the order of roles; parts a
/// role may not hold; tool calls, their ids and results; names of functions; where `prefix` may
/// stand; the ending.
void check_conversation(const Conversation& conversation, int version, Ending ending);

}  // namespace trestle
