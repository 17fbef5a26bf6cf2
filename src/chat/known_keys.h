// What keys beside a conversation mean, in whatever tool wrote them. Called by the checks of keys
// (chat/keys) and by the data sets that choose columns.
#pragma once

#include <optional>
#include <string_view>

namespace trestle {

/// Why a row or a message would be another one without this key: it means something to the tools
/// that write it, and nobody here reads it. Nothing for other keys. Spelling is loose: `imagePath`,
/// `Image-Path` and `image_path` are one.
std::optional<std::string_view> loss_without(std::string_view key);

/// Whether the key is one of those that hold or name pictures: a note where the row has its
/// pictures under the names that are read.
bool names_pictures(std::string_view key);

/// Whether the key says only where something is from, which it is, what was measured of it: ids,
/// sources, licences, scores.
bool is_harmless(std::string_view key);

/// Whether the key holds a text that belongs into the messages, and says nothing new where they
/// have it: `prompt`, `question`, `context`.
bool repeats_a_text(std::string_view key);

/// Whether the key holds an answer: data sets have several, of which one is learnt. A note where
/// the messages do not have it, as those of ten annotators are no reason to stop.
bool is_answer(std::string_view key);

/// Whether the key says what is learnt; 1 or true is so anyway.
bool says_what_is_learnt(std::string_view key);

}  // namespace trestle
