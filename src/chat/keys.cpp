#include "chat/keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/text.h"
#include "chat/exchange.h"
#include "chat/known_keys.h"
#include "chat/repeats.h"

namespace trestle {

namespace {

using Keys = std::vector<std::string_view>;

constexpr std::array<std::string_view, 3> kSystem = {"system", "system_prompt", "system_message"};
constexpr std::array<std::string_view, 11> kOfRows = {
    "messages",       "conversations", "texts",         "tools",          "images",
    "image",          "system",        "system_prompt", "system_message", "reasoning_effort",
    "response_format"};
constexpr std::array<std::string_view, 6> kSources = {"path",  "url",   "base64",
                                                      "bytes", "image", "image_url"};

// What stands beside a message, a part or a call, and is harmless there alone (known_keys.h has the
// rest): none of it is in the layout, whoever reads it.
constexpr std::array<std::string_view, 2> kOfMessages = {"name", "type"};
constexpr std::array<std::string_view, 5> kOfParts = {"cache_control", "detail", "mime_type",
                                                      "media_type", "format"};

bool is_among(std::span<const std::string_view> keys, std::string_view key) {
  return std::ranges::find(keys, key) != keys.end();
}

void check(const Json& object, const Keys& read, std::span<const std::string_view> harmless,
           OtherKeys others, const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (says_nothing(value) || is_among(read, key)) continue;
    if (others == OtherKeys::kOfDataSets && (is_among(harmless, key) || is_harmless(key))) continue;
    user_error("{}: nobody reads \"{}\"; the keys here are {}", where, key, fmt::join(read, ", "));
  }
}

// Whether any text of a list or object passes.
bool any_text(const Json& value, const auto& passes) {
  if (value.is_string()) return passes(value.get_ref<const std::string&>());
  return value.is_structured() &&
         std::ranges::any_of(value, [&](const Json& item) { return any_text(item, passes); });
}

// A file's name that ends as those of pictures do.
bool names_picture(const Json& value) {
  constexpr size_t kLongest = 1024;
  constexpr std::array kEndings = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tiff"};
  return any_text(value, [&](const std::string& text) {
    return text.size() < kLongest && text.find('\n') == text.npos &&
           text.find("://") == text.npos &&
           std::ranges::any_of(kEndings, [&](const char* end) { return text.ends_with(end); });
  });
}

bool says(const Json& object, std::string_view key) { return find_said(object, key) != nullptr; }

// In the row's own list, or a part of a message.
bool has_picture(const Json& row) {
  if (says(row, "images") || says(row, "image")) return true;
  const Json* messages = find_messages(row);
  if (messages == nullptr) return false;
  const auto is_picture = [](const Json& part) {
    return part.is_object() && (says(part, "image") || says(part, "image_url") ||
                                part.value("type", Json()) == "image");
  };
  return std::ranges::any_of(*messages, [&](const Json& message) {
    const Json* content = message.is_object() ? find_said(message, "content") : nullptr;
    return content != nullptr && content->is_array() && std::ranges::any_of(*content, is_picture);
  });
}

Keys sources_of(const Json& picture) {
  Keys named;
  for (const std::string_view key : kSources) {
    if (says(picture, key)) named.push_back(key);
  }
  return named;
}

// The same thing under two names, of which one is taken.
void refuse_both(const Json& object, const char* taken, const char* other,
                 const std::string& where) {
  if (says(object, taken) && says(object, other)) {
    user_error("{}: \"{}\" and \"{}\" stand together; leave one out", where, taken, other);
  }
}

// Keys of one role, in messages of another.
void check_role(const Json& message, Role role, const std::string& where) {
  const auto require_role = [&](std::string_view key, Role owner) {
    const Json* value = find_said(message, key);
    if (role == owner || value == nullptr) return;
    // What is so anyway: only the assistant's turns are learnt, and only those are prefixes.
    const bool is_so = key == "prefix" || says_what_is_learnt(key);
    if (is_so && (*value == false || *value == 0)) return;
    user_error("{}: \"{}\" is for messages of the {}; this one is of the {}", where, key,
               role_name(owner), role_name(role));
  };
  for (const char* key : {"tool_calls", "reasoning", "reasoning_content", "prefix", "weight",
                          "train", "training", "loss"}) {
    require_role(key, Role::kAssistant);
  }
  require_role("tool_call_id", Role::kTool);
}

// Whether what the key of a row says is in the row anyway.
bool is_so_anyway(const Json& row, const std::string& key, const Json& value) {
  return (names_pictures(key) && has_picture(row)) ||
         (key == "turns" && counts_turns(row, value)) ||
         (repeats_a_text(key) && repeats_messages(row, value));
}

// Whether a label is KTO's, which says of an answer whether it is wanted; others are of a class.
bool says_whether_wanted(const Json& label) {
  if (label.is_string()) {
    std::string text(trimmed(label.get_ref<const std::string&>()));
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text == "true" || text == "false";
  }
  return label.is_boolean() || label == 0 || label == 1;
}

[[noreturn]] void refuse_lost(const std::string& where, std::string_view key,
                              std::string_view why) {
  user_error("{}: nobody reads \"{}\": {}; move it or leave it out", where, key, why);
}

// Throws where the key's value is lost; whether it is a key that nobody knows. `row` is that of the
// key, nullptr for a message's.
bool check_beside(const Json* row, const std::string& key, const Json& value,
                  const std::string& where) {
  if (const auto why = loss_without(key)) {
    const bool is_so = says_what_is_learnt(key) ? value == true || value == 1
                                                : row != nullptr && is_so_anyway(*row, key, value);
    if (!is_so) refuse_lost(where, key, *why);
    return false;
  }
  const bool is_said = row != nullptr && value.is_string() && repeats_messages(*row, value);
  if (key == "label" && says_whether_wanted(value) && !is_said) {
    refuse_lost(where, key, "answers that are not wanted cannot be learnt from");
  }
  const bool harmless = is_harmless(key), answers = is_answer(key);
  const bool may_name_one = !(harmless || answers) || key == "path" || key.ends_with("name");
  const bool is_picture = holds_picture(value) || (may_name_one && names_picture(value));
  if (is_picture && (row == nullptr || !has_picture(*row))) {
    refuse_lost(where, key, "it is a picture, and pictures stand under \"images\"");
  }
  if (answers) return row == nullptr || !repeats_messages(*row, value);
  return !harmless;
}

}  // namespace

std::span<const std::string_view> row_keys() { return kOfRows; }
std::span<const std::string_view> system_keys() { return kSystem; }

bool says_nothing(const Json& value) {
  if (value.is_null() || value.is_discarded()) return true;
  if (value.is_number_float()) return std::isnan(value.get<double>());
  if (value.is_structured()) return std::ranges::all_of(value, says_nothing);
  if (value.is_binary()) return value.get_binary().empty();
  if (!value.is_string()) return false;
  const std::string_view text = trimmed(value.get_ref<const std::string&>());
  return text.empty() || text == "[]" || text == "{}" || text == "null";
}

const Json* find_said(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || says_nothing(*found) ? nullptr : &*found;
}

bool has_messages(const Json& row) {
  return says(row, "messages") || says(row, "conversations") || says(row, "texts");
}

bool holds_picture(const Json& value) {
  if (value.is_structured()) return std::ranges::any_of(value, holds_picture);
  if (value.is_string()) return value.get_ref<const std::string&>().starts_with("data:image/");
  if (!value.is_binary()) return false;
  constexpr std::array<std::string_view, 6> kFirstBytes = {"\xFF\xD8\xFF", "\x89PNG", "RIFF",
                                                           "GIF8",         "II*",     "MM"};
  const Json::binary_t& bytes = value.get_binary();
  return std::ranges::any_of(kFirstBytes, [&](std::string_view first) {
    return bytes.size() > first.size() &&
           std::memcmp(bytes.data(), first.data(), first.size()) == 0;
  });
}

std::vector<std::string> check_row_keys(const Json& row, OtherKeys others,
                                        const std::string& where) {
  refuse_both(row, "messages", "conversations", where);
  refuse_both(row, "messages", "texts", where);
  refuse_both(row, "conversations", "texts", where);
  for (const QuestionAnswer& pair : question_answer_names()) {
    if (says(row, pair.question) && says(row, pair.answer)) {
      user_error(
          "{}: nobody reads \"{}\" and \"{}\" beside the messages; move them into the messages or "
          "leave them out",
          where, pair.question, pair.answer);
    }
  }
  std::vector<std::string> unknown;
  for (const auto& [key, value] : row.items()) {
    if (says_nothing(value) || is_among(kOfRows, key)) continue;
    if (check_beside(&row, key, value, where)) unknown.push_back(key);
  }
  // Ids, sources, licences, scores: a data set's columns are its own.
  if (others == OtherKeys::kOfDataSets) return unknown;
  check(row, Keys(kOfRows.begin(), kOfRows.end()), {}, others, where);
  return {};
}

std::vector<std::string> check_message_keys(const Json& message, Role role, OtherKeys others,
                                            const std::string& where) {
  refuse_both(message, "role", "from", where);
  refuse_both(message, "content", "value", where);
  check_role(message, role, where);
  Keys read = {
      "role",   "content", "from",         "value",    "tool_calls", "reasoning",        "prefix",
      "weight", "train",   "tool_call_id", "training", "loss",       "reasoning_content"};
  if (role == Role::kTool) read.emplace_back("name");
  if (others == OtherKeys::kRefused) {
    check(message, read, {}, others, where);
    return {};
  }
  std::vector<std::string> unknown;
  for (const auto& [key, value] : message.items()) {
    if (says_nothing(value) || is_among(read, key) || is_among(kOfMessages, key)) continue;
    if (key == "text") refuse_lost(where, key, "a message's text is its \"content\"");
    if (check_beside(nullptr, key, value, where)) unknown.push_back(key);
  }
  return unknown;
}

void check_part_keys(const Json& part, std::string_view type, OtherKeys others,
                     const std::string& where) {
  Keys read = {"type"};
  if (type == "text") {
    read.emplace_back("text");
  } else if (type == "thinking") {
    read.emplace_back("thinking");
    read.emplace_back("closed");
  } else {
    for (const auto& source : kSources) read.emplace_back(source);
    read.emplace_back("width");
    read.emplace_back("height");
    if (sources_of(part).empty()) read.emplace_back("index");
  }
  check(part, read, kOfParts, others, where);
}

void check_picture_keys(const Json& picture, OtherKeys others, const std::string& where) {
  const Keys named = sources_of(picture);
  if (named.empty()) return;  // the reader says what a picture needs
  // The datasets library's pictures have bytes, and a path that only names them.
  if (named.size() > 1 && named != Keys{"path", "bytes"}) {
    user_error("{}: {} both name a picture; leave one out", where, fmt::join(named, " and "));
  }
  if (picture.contains("type")) return;  // a part, which is checked as such
  Keys read(kSources.begin(), kSources.end());
  if (others == OtherKeys::kOfDataSets) read.insert(read.end(), {"width", "height"});
  check(picture, read, kOfParts, others, where);
}

void check_call_keys(const Json& call, OtherKeys others, const std::string& where) {
  if (const Json* type = find_said(call, "type"); type != nullptr && *type != "function") {
    user_error("{}: a tool call of type {}; there is \"function\" alone", where, type->dump());
  }
  check(call, {"id", "type", "function"}, {}, others, where);
  const Keys read = {"name", "arguments"};
  for (const auto& [key, value] : call["function"].items()) {
    if (says_nothing(value) || is_among(read, key)) continue;
    user_error("{}: function: nobody reads \"{}\"; the keys here are {}", where, key,
               fmt::join(read, ", "));
  }
}

void check_text_keys(const Json& text, OtherKeys others, const std::string& where) {
  check(text, {"user", "assistant"}, {}, others, where);
}

}  // namespace trestle
