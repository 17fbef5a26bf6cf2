// Messages as the layouts write them: neighbours merged, texts joined, tool results in the order of
// their calls. Called by ChatEncoder only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat/chat.h"

namespace trestle {

/// Between texts that are joined.
inline constexpr std::string_view kEmptyLine = "\n\n";

/// One or several messages written as one; `index` is that of the first, for errors.
struct Turn {
  Message message;
  size_t index;
};

/// Appends a part; text follows text after `separator`, and empty text vanishes.
void append_part(std::vector<Part>& parts, Part part, std::string_view separator = kEmptyLine);
bool is_plain_text(const std::vector<Part>& parts);

/// Neighbouring user or assistant messages merge, with an empty line between their texts, unless
/// only one of two is trained; the texts of one message are joined by an empty line too, or by
/// nothing from v15 on; results are sorted from v11 on. The conversation must have passed
/// check_conversation.
std::vector<Turn> merge_messages(const Conversation& conversation, int version);

/// For layout v3, which has no system turn: takes those turns out and returns their texts, joined.
/// A conversation that then does not start with a user turn gets an empty one.
std::string take_system_prompt(std::vector<Turn>& turns);

/// The first or last user turn, or turns.size().
size_t find_user(const std::vector<Turn>& turns, bool first);

}  // namespace trestle
