// Which keys of a conversation's JSON are read, and which others may stand beside them. Called by
// the reader of conversations (chat_json) and by the data sets that choose columns.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "chat/chat.h"

namespace trestle {

/// What becomes of keys that nobody reads: all are refused, or those that data sets carry by nature
/// may stay.
enum class OtherKeys { kRefused, kOfDataSets };

/// A key that is not read, and why it may stand there or may not.
struct OtherKey {
  std::string_view key, why;
};

/// A key of a row that would be lost with what it says, in data sets too: a system prompt beside
/// the messages, other media.
struct LostKey {
  std::string_view key, why;
  /// A note where the row has pictures under the names that are read: where they came from.
  bool names_pictures = false;
};
std::span<const LostKey> lost_row_keys();

/// Null, or an empty text, list or object.
bool says_nothing(const Json& value);

/// Throws UserError, opened by `where`, for a key that nobody reads. Keys that say nothing count as
/// absent everywhere.
void check_row_keys(const Json& row, OtherKeys others, const std::string& where);
void check_message_keys(const Json& message, Role role, OtherKeys others, const std::string& where);
/// `type` is the part's: text, thinking, image or image_url.
void check_part_keys(const Json& part, std::string_view type, OtherKeys others,
                     const std::string& where);
/// An object that names a picture or is one; of two sources only one would be taken.
void check_picture_keys(const Json& picture, OtherKeys others, const std::string& where);
void check_call_keys(const Json& call, OtherKeys others, const std::string& where);

}  // namespace trestle
