// Ids of tool calls where the data has none. Called by ChatEncoder.
#pragma once

#include "chat/chat.h"

namespace trestle {

/// From v13 on the layout writes no ids, so that they only pair results with calls; Hugging Face's
/// form and others leave them out. Calls and results without one get one: a result's call is the
/// first open one of its name, or the first open one where it names none. Results that fit no call
/// stay as they are, for check_conversation to name.
void fill_call_ids(Conversation& conversation);

}  // namespace trestle
