// Which keys of a conversation's JSON are read, and which others may stand beside them. Called by
// the reader of conversations (chat/json) and by the data sets that choose columns.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "chat/chat.h"

namespace trestle {

/// Where a text of a row has one of its pictures.
inline constexpr std::string_view kImagePlaceholder = "<image>";

/// What becomes of keys that nobody reads: all are refused, or those that lose nothing may stay.
enum class OtherKeys { kRefused, kOfDataSets };

/// The keys of a row that are read.
std::span<const std::string_view> row_keys();
/// Those under which a row may say its system prompt.
std::span<const std::string_view> system_keys();

/// Whether a value counts as absent, in whatever spelling exports have for it: null, NaN, an empty
/// or blank text, the texts of JSON's empty values ("[]", "{}", "null"), and a list or object of
/// nothing but such.
bool says_nothing(const Json& value);
/// The value of a key that says something, or nullptr.
const Json* find_said(const Json& object, std::string_view key);
/// Whether a row holds a conversation under one of its names.
bool has_messages(const Json& row);
/// Whether a value is a picture or has one in it: bytes or a data: URI.
bool holds_picture(const Json& value);

/// Each throws UserError, opened by `where`, for a key that would be lost with what it says
/// (known_keys.h), and with OtherKeys::kRefused for every key that is not read. Those of rows and
/// messages return the keys that nobody knows.
std::vector<std::string> check_row_keys(const Json& row, OtherKeys others,
                                        const std::string& where);
std::vector<std::string> check_message_keys(const Json& message, Role role, OtherKeys others,
                                            const std::string& where);
/// `type` is the part's: text, thinking, image or image_url.
void check_part_keys(const Json& part, std::string_view type, OtherKeys others,
                     const std::string& where);
/// An object that names a picture or is one; of two sources only one would be taken.
void check_picture_keys(const Json& picture, OtherKeys others, const std::string& where);
void check_call_keys(const Json& call, OtherKeys others, const std::string& where);
/// One of "texts", {"user", "assistant"}.
void check_text_keys(const Json& text, OtherKeys others, const std::string& where);

}  // namespace trestle
