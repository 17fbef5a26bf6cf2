// Whether a key beside the messages says no more than they do. Called by the checks of keys
// (chat/keys).
#pragma once

#include "base/json.h"

namespace trestle {

/// The list of a row's messages, under either of its names, or nullptr.
const Json* find_messages(const Json& row);

/// Whether all that `value` says, numbers as they are written, stands in the row's messages: as the
/// whole content of one, as one of its text parts, or as the system prompt, or as a passage of one.
/// A word within one is no sign that nothing is lost.
bool repeats_messages(const Json& row, const Json& value);

/// Whether `turns` is how many there are: all messages, those but the system's, or those of one
/// side.
bool counts_turns(const Json& row, const Json& turns);

}  // namespace trestle
