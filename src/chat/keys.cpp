#include "chat/keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "chat/exchange.h"

namespace trestle {

namespace {

using Keys = std::vector<std::string_view>;

constexpr std::array kLostOfRows = {
    LostKey{"system", "the system prompt is a message with the role system"},
    LostKey{"system_prompt", "the system prompt is a message with the role system"},
    LostKey{"system_message", "the system prompt is a message with the role system"},
    LostKey{"history", "earlier turns are messages"},
    LostKey{"functions", "tools stand under \"tools\""},
    LostKey{"documents", "the layout has no place for documents"},
    LostKey{"video", "the model takes no videos"},
    LostKey{"videos", "the model takes no videos"},
    LostKey{"video_path", "the model takes no videos"},
    LostKey{"video_paths", "the model takes no videos"},
    LostKey{"audio", "the model takes no sound"},
    LostKey{"audios", "the model takes no sound"},
    LostKey{"audio_path", "the model takes no sound"},
    LostKey{"audio_paths", "the model takes no sound"},
    LostKey{"image_path", "pictures stand under \"images\"", true},
    LostKey{"image_paths", "pictures stand under \"images\"", true},
    LostKey{"image_url", "pictures stand under \"images\"", true},
    LostKey{"image_urls", "pictures stand under \"images\"", true},
    LostKey{"Image", "pictures stand under \"images\"", true},
    LostKey{"Images", "pictures stand under \"images\"", true},
    LostKey{"img", "pictures stand under \"images\"", true},
    LostKey{"img_path", "pictures stand under \"images\"", true},
    LostKey{"image_file", "pictures stand under \"images\"", true},
    LostKey{"image_files", "pictures stand under \"images\"", true},
    LostKey{"image_bytes", "pictures stand under \"images\"", true},
    LostKey{"picture", "pictures stand under \"images\"", true},
    LostKey{"pictures", "pictures stand under \"images\"", true},
    LostKey{"photo", "pictures stand under \"images\"", true},
    LostKey{"photos", "pictures stand under \"images\"", true},
    LostKey{"weight", "a weight is a message's: 0 where it is not to be learnt"},
    LostKey{"train", "what is learnt stands in each message: \"weight\" 0 where it is not"},
    LostKey{"train_on", "what is learnt stands in each message: \"weight\" 0 where it is not"},
    LostKey{"loss_mask", "what is learnt stands in each message: \"weight\" 0 where it is not"},
    LostKey{"loss_weight", "what is learnt stands in each message: \"weight\" 0 where it is not"},
    LostKey{"weights", "what is learnt stands in each message: \"weight\" 0 where it is not"},
};

// What others write beside a message; none of it is in the layout, whoever reads it.
constexpr std::array kOfMessages = {
    OtherKey{"name", "who speaks, OpenAI's field"},
    OtherKey{"annotations", "citations of an answer, OpenAI's field"},
    OtherKey{"id", "numbers the message"},
    OtherKey{"index", "numbers the message"},
    OtherKey{"timestamp", "when it was said"},
    OtherKey{"model", "who wrote it"},
    OtherKey{"source", "where it is from"},
    OtherKey{"metadata", "notes of the data set"},
    OtherKey{"language", "notes of the data set"},
};

constexpr std::array kOfParts = {
    OtherKey{"id", "numbers the part"},
    OtherKey{"index", "numbers the picture; read and held to the order where the part names none"},
    OtherKey{"cache_control", "for the servers of an API"},
    OtherKey{"detail", "what OpenAI's servers shall spend; here the picture's size says it"},
    OtherKey{"mime_type", "the picture's bytes say it"},
    OtherKey{"media_type", "the picture's bytes say it"},
    OtherKey{"format", "the picture's bytes say it"},
};

constexpr std::array kOfCalls = {OtherKey{"index", "numbers the call, in OpenAI's streams"}};

constexpr std::array<std::string_view, 6> kSources = {"path",  "url",   "base64",
                                                      "bytes", "image", "image_url"};

bool has(std::span<const OtherKey> keys, std::string_view key) {
  return std::ranges::find(keys, key, &OtherKey::key) != keys.end();
}

void check(const Json& object, const Keys& read, std::span<const OtherKey> harmless,
           OtherKeys others, const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (says_nothing(value) || std::ranges::find(read, key) != read.end()) continue;
    if (others == OtherKeys::kOfDataSets && has(harmless, key)) continue;
    user_error("{}: nobody reads \"{}\"; the keys here are {}", where, key, fmt::join(read, ", "));
  }
}

bool says(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && !says_nothing(*found);
}

// In the row's own list, or a part of a message.
bool has_picture(const Json& row) {
  if (says(row, "images") || says(row, "image")) return true;
  const auto messages = row.find(row.contains("messages") ? "messages" : "conversations");
  if (messages == row.end() || !messages->is_array()) return false;
  const auto is_picture = [](const Json& part) {
    return part.is_object() && (says(part, "image") || says(part, "image_url") ||
                                part.value("type", Json()) == "image");
  };
  return std::ranges::any_of(*messages, [&](const Json& message) {
    if (!message.is_object()) return false;
    const auto content = message.find("content");
    return content != message.end() && content->is_array() &&
           std::ranges::any_of(*content, is_picture);
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
    const auto found = message.find(key);
    if (role == owner || found == message.end() || says_nothing(*found)) return;
    // What is so anyway: only the assistant's turns are learnt, and only those are prefixes.
    if (*found == false || *found == 0) return;
    user_error("{}: \"{}\" is for messages of the {}; this one is of the {}", where, key,
               role_name(owner), role_name(role));
  };
  for (const char* key : {"tool_calls", "reasoning", "reasoning_content", "prefix", "weight"}) {
    require_role(key, Role::kAssistant);
  }
  require_role("tool_call_id", Role::kTool);
}

}  // namespace

std::span<const LostKey> lost_row_keys() { return kLostOfRows; }

bool says_nothing(const Json& value) {
  return value.is_null() || ((value.is_string() ? value.get_ref<const std::string&>().empty()
                                                : value.is_structured() && value.empty()));
}

void check_row_keys(const Json& row, OtherKeys others, const std::string& where) {
  refuse_both(row, "messages", "conversations", where);
  for (const LostKey& lost : kLostOfRows) {
    if (says(row, lost.key) && !(lost.names_pictures && has_picture(row))) {
      user_error("{}: nobody reads \"{}\": {}; move it or leave it out", where, lost.key, lost.why);
    }
  }
  const bool has_messages = row.contains("messages") || row.contains("conversations");
  for (const QuestionAnswer& pair : question_answer_names()) {
    if (has_messages && says(row, pair.question) && says(row, pair.answer)) {
      user_error(
          "{}: nobody reads \"{}\" and \"{}\" beside the messages; move them into the messages or "
          "leave them out",
          where, pair.question, pair.answer);
    }
  }
  // Ids, sources, licences, scores: a data set's columns are its own.
  if (others == OtherKeys::kOfDataSets) return;
  check(row,
        {"messages", "conversations", "tools", "image", "images", "reasoning_effort",
         "response_format"},
        {}, others, where);
}

void check_message_keys(const Json& message, Role role, OtherKeys others,
                        const std::string& where) {
  refuse_both(message, "role", "from", where);
  refuse_both(message, "content", "value", where);
  check_role(message, role, where);
  Keys read = {"role",   "content",      "tool_calls", "reasoning", "prefix",
               "weight", "tool_call_id", "from",       "value",     "reasoning_content"};
  if (role == Role::kTool) read.emplace_back("name");
  check(message, read, kOfMessages, others, where);
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
  if (call.contains("type") && call["type"] != "function") {
    user_error("{}: a tool call of type {}; there is \"function\" alone", where,
               call["type"].dump());
  }
  check(call, {"id", "type", "function"}, kOfCalls, others, where);
  check(call["function"], {"name", "arguments"}, {}, others, where + ": function");
}

}  // namespace trestle
