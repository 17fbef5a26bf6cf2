#include "chat/repeats.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/text.h"
#include "chat/keys.h"

namespace trestle {

namespace {

// A text of so many bytes, a passage that a question is about, is within a message on purpose.
constexpr size_t kNoAccident = 48;

// Without places of pictures and blanks around it: what a message has of it as a text.
std::string without_places(std::string_view text) {
  std::string kept;
  for (size_t at = 0; at < text.size();) {
    const size_t place = std::min(text.find(kImagePlaceholder, at), text.size());
    kept += text.substr(at, place - at);
    at = place + kImagePlaceholder.size();
  }
  return std::string(trimmed(kept));
}

// Whether `text` is the whole content of a message, one of its text parts, or the system prompt, or
// a passage of one: a word within one is no sign that nothing is lost.
bool is_a_whole_text(const Json& row, std::string_view text) {
  const std::string wanted = without_places(text);
  const auto is_it = [&](const Json* said) {
    if (said == nullptr || !said->is_string()) return false;
    const std::string whole = without_places(said->get_ref<const std::string&>());
    return whole == wanted ||
           (wanted.size() >= kNoAccident && whole.find(wanted) != std::string::npos);
  };
  const auto holds = [&](const Json& message) {
    if (!message.is_object()) return false;
    const Json* content =
        find_said(message, find_said(message, "content") != nullptr ? "content" : "value");
    if (content == nullptr || !content->is_array()) return is_it(content);
    return std::ranges::any_of(*content, [&](const Json& part) {
      return part.is_object() && is_it(find_said(part, "text"));
    });
  };
  const Json* messages = find_messages(row);
  return std::ranges::any_of(system_keys(), [&](auto key) { return is_it(find_said(row, key)); }) ||
         (messages != nullptr && std::ranges::any_of(*messages, holds));
}

}  // namespace

const Json* find_messages(const Json& row) {
  const Json* messages =
      find_said(row, find_said(row, "messages") != nullptr ? "messages" : "conversations");
  return messages != nullptr && messages->is_array() ? messages : nullptr;
}

bool repeats_messages(const Json& row, const Json& value) {
  if (says_nothing(value)) return true;
  if (value.is_structured()) {
    return std::ranges::all_of(value,
                               [&](const Json& each) { return repeats_messages(row, each); });
  }
  if (value.is_string()) return is_a_whole_text(row, value.get_ref<const std::string&>());
  return value.is_number() && is_a_whole_text(row, value.dump());
}

bool counts_turns(const Json& row, const Json& turns) {
  const Json* messages = find_messages(row);
  if (!turns.is_number() || messages == nullptr) return false;
  const auto of = [&](std::initializer_list<std::string_view> roles) {
    return std::ranges::count_if(*messages, [&](const Json& message) {
      const Json* role =
          find_said(message, find_said(message, "role") != nullptr ? "role" : "from");
      return role != nullptr && role->is_string() &&
             std::ranges::count(roles, role->get_ref<const std::string&>()) > 0;
    });
  };
  const auto all = std::ssize(*messages);
  return turns == all || turns == all - of({"system"}) || turns == of({"user", "human"}) ||
         turns == of({"assistant", "gpt"});
}

}  // namespace trestle
