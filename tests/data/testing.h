// What the tests of data sets share.
#pragma once

#include <string>

#include "chat/chat.h"

namespace trestle::testing {

/// A conversation, a line a message: "user: <image>What is shown?".
inline std::string text_of(const Conversation& conversation) {
  std::string text;
  for (const Message& message : conversation.messages) {
    text += std::string(role_name(message.role)) + ": ";
    for (const Part& part : message.parts) {
      text += part.kind == Part::Kind::kImage ? "<image>" : part.text;
    }
    text += "\n";
  }
  return text;
}

}  // namespace trestle::testing
