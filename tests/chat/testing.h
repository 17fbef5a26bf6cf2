// What the tests of conversations share: small pictures, masks as text, rows of mistral-common's
// answers.
#pragma once

#include <string>
#include <vector>

#include "chat/chat.h"
#include "chat/json.h"
#include "errors.h"
#include "tokenizer/testing.h"

namespace trestle::testing {

// The grid of a small picture (no side over 1540): one [IMG] for each 28 pixels begun.
inline void set_small_grids(Conversation& conversation) {
  for (Message& message : conversation.messages) {
    for (Part& part : message.parts) {
      part.image.rows = (part.image.height + 27) / 28;
      part.image.cols = (part.image.width + 27) / 28;
    }
  }
}

inline std::string bits(const std::vector<uint8_t>& mask) {
  std::string text;
  for (const uint8_t bit : mask) text += static_cast<char>('0' + bit);
  return text;
}

// Text of a chat with the names of special tokens; the masked part of it.
inline std::string render(const Tokenizer& tokenizer, const EncodedChat& chat,
                          bool only_masked = false) {
  std::vector<int64_t> ids;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    if (!only_masked || chat.mask[i] != 0) ids.push_back(chat.ids[i]);
  }
  return tokenizer.decode(ids, Specials::kKeep);
}

/// Expects of one row of a golden file, with its "ids" and "mask" or its "error", that the encoder
/// answers likewise; whether there are ids.
inline bool expect_golden_chat(const ChatEncoder& encoder, const Tokenizer& tokenizer,
                               const Json& chat, const Json& row, const std::string& ending_name) {
  const Ending ending = ending_name == "any"      ? Ending::kAny
                        : ending_name == "prompt" ? Ending::kPrompt
                                                  : Ending::kSample;
  const auto encode = [&] {
    Conversation conversation = parse_conversation(chat, "test", OtherKeys::kRefused);
    set_small_grids(conversation);
    return encoder.encode(conversation, ending);
  };
  if (row.contains("error")) {
    EXPECT_NE(error_of(encode), "");
    return false;
  }
  try {
    const EncodedChat encoded = encode();
    EXPECT_EQ(encoded.ids, golden_ids(row["ids"])) << render(tokenizer, encoded);
    if (row.contains("mask")) {
      EXPECT_EQ(bits(encoded.mask), row["mask"].get<std::string>());
    }
  } catch (const UserError& error) {
    ADD_FAILURE() << error.what();
  }
  return true;
}

}  // namespace trestle::testing
