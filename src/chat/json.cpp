#include "chat/json.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <ranges>
#include <vector>

#include "base/error.h"
#include "chat/exchange.h"
#include "chat/pictures.h"
#include "chat/settings.h"
#include "chat/tools.h"

namespace trestle {

namespace {

constexpr int64_t kMaxSide = 1 << 24;

/// Reads the messages of one row and deals out the row's own images.
class RowReader {
 public:
  RowReader(const Json& row, std::string what, OtherKeys others)
      : row_(row), what_(std::move(what)), others_(others) {}

  Conversation read() {
    if (!row_.is_object()) user_error("{}: a conversation must be a JSON object", what_);
    unread_ = check_row_keys(row_, others_, what_);
    for (const char* key : {"images", "image"}) read_row_images(key);
    const char* key = find(row_, "messages") == nullptr && row_.contains("conversations")
                          ? "conversations"
                          : "messages";
    const auto list = row_.find(key);
    if (list == row_.end() || !list->is_array()) refuse_row();
    Conversation conversation;
    for (const Json& message : *list) {
      place_ = fmt::format("{}: {}[{}]", what_, key, conversation.messages.size());
      conversation.messages.push_back(read_message(message));
      check_tool_name(conversation);
    }
    place_rest(conversation);
    read_system(conversation);
    conversation.tools = read_tools(row_, what_);
    conversation.settings = read_settings(row_, what_);
    conversation.unread = std::move(unread_);
    return conversation;
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: {}", place_, fmt::format(format, std::forward<Args>(args)...));
  }

  static const Json* find(const Json& object, const char* key) { return find_said(object, key); }

  // What stands there in place of a conversation.
  [[noreturn]] void refuse_row() const {
    if (row_.contains("role") || row_.contains("from")) {
      user_error("{}: it is a message alone; a row is {{\"messages\": [...]}}", what_);
    }
    std::vector<std::string> keys;
    for (const auto& [key, value] : row_.items()) keys.push_back(key);
    user_error("{}: \"messages\" must be a list; the row has {}", what_,
               keys.empty() ? "no key" : fmt::format("{}", fmt::join(keys, ", ")));
  }

  std::string need_string(const Json& object, const char* key) const {
    const Json* value = find(object, key);
    if (value == nullptr || !value->is_string()) refuse("\"{}\" must be a string", key);
    return value->get<std::string>();
  }

  // A text, which may be empty.
  std::string need_text(const Json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string()) refuse("\"{}\" must be a string", key);
    return found->get<std::string>();
  }

  bool flag(const Json& object, const char* key, bool otherwise) const {
    const Json* value = find(object, key);
    if (value != nullptr && !value->is_boolean()) refuse("\"{}\" must be true or false", key);
    return value == nullptr ? otherwise : value->get<bool>();
  }

  void read_row_images(const char* key) {
    const Json* value = find(row_, key);
    if (value == nullptr) return;
    place_ = what_;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& image : list) {
      place_ = fmt::format("{}: {}[{}]", what_, key, images_.size());
      images_.push_back(read_picture(image, others_, place_));
    }
  }

  // A column of its own, as LLaMA-Factory's and ms-swift's rows have it.
  void read_system(Conversation& conversation) const {
    const Json* said = nullptr;
    for (const std::string_view key : system_keys()) {
      const Json* value = find_said(row_, key);
      if (value == nullptr) continue;
      if (!value->is_string()) user_error("{}: \"{}\" must be a text", what_, key);
      if (said != nullptr && *said != *value) {
        user_error("{}: \"{}\" is another system prompt; leave one out", what_, key);
      }
      said = value;
    }
    if (said == nullptr) return;
    Message message = text_message(Role::kSystem, said->get<std::string>());
    std::vector<Message>& messages = conversation.messages;
    if (messages.empty() || messages[0].role != Role::kSystem) {
      messages.insert(messages.begin(), std::move(message));
    } else if (messages[0].parts.size() != 1 ||
               messages[0].parts[0].text != said->get<std::string>()) {
      user_error("{}: a system prompt beside the messages and another among them; leave one out",
                 what_);
    }
  }

  Message read_message(const Json& json) {
    if (!json.is_object()) refuse("a message must be a JSON object");
    Message message;
    const std::string role = need_string(json, find(json, "role") != nullptr ? "role" : "from");
    message.role = role_of(role);
    for (const std::string& key : check_message_keys(json, message.role, others_, place_)) {
      const std::string name = "messages: " + key;
      if (std::ranges::find(unread_, name) == unread_.end()) unread_.push_back(name);
    }
    const bool has_value = find(json, "value") != nullptr || !json.contains("content");
    const auto found = json.find(has_value ? "value" : "content");
    const bool is_there = found != json.end() && !found->is_null();
    if (role == "function_call" && is_there) {
      message.tool_calls = read_function_call(*found, others_, place_);
    } else if (is_there && found->is_string()) {
      read_text(found->get<std::string>(), message);
    } else if (is_there && found->is_array()) {
      for (const Json& part : *found) read_part(part, message);
    } else if (is_there || message.role != Role::kAssistant) {
      refuse("\"content\" must be a string or a list of parts");
    }
    // Empty texts vanish in every layout.
    std::erase_if(message.parts, [](const Part& part) {
      return part.kind == Part::Kind::kText && part.text.empty();
    });
    if (message.role == Role::kAssistant) read_assistant(json, message);
    if (message.role == Role::kTool) {
      if (find(json, "tool_call_id")) message.tool_call_id = need_string(json, "tool_call_id");
      if (find(json, "name")) message.tool_name = need_string(json, "name");
    }
    return message;
  }

  // The layout has no place for a tool's name, but it can be that of another call than the id's.
  void check_tool_name(const Conversation& conversation) const {
    const Message& result = conversation.messages.back();
    if (result.tool_name.empty() || !result.tool_call_id) return;
    for (const Message& message : conversation.messages | std::views::reverse) {
      const auto call = std::ranges::find(message.tool_calls, *result.tool_call_id, &ToolCall::id);
      if (call == message.tool_calls.end()) continue;
      if (result.tool_name == call->name) return;
      refuse("\"name\" is \"{}\", but the call {} is of \"{}\"", result.tool_name, call->id,
             call->name);
    }
  }

  Role role_of(const std::string& role) const {
    if (role == "system") return Role::kSystem;
    if (role == "user" || role == "human") return Role::kUser;
    if (role == "assistant" || role == "gpt" || role == "function_call") return Role::kAssistant;
    if (role == "tool" || role == "observation") return Role::kTool;
    refuse("the role \"{}\" is unknown; there are system, user, assistant and tool", role);
  }

  void read_assistant(const Json& json, Message& message) const {
    const Json* first = find(json, "reasoning");
    const Json* second = find(json, "reasoning_content");
    if (first != nullptr || second != nullptr) {
      Part think;
      think.kind = Part::Kind::kThink;
      think.text = need_string(json, first != nullptr ? "reasoning" : "reasoning_content");
      if (first != nullptr && second != nullptr && *first != *second) {
        refuse("\"reasoning\" and \"reasoning_content\" differ");
      }
      for (const Part& part : message.parts) {
        if (part.kind == Part::Kind::kThink) refuse("thinking parts and \"reasoning\" together");
      }
      message.parts.insert(message.parts.begin(), std::move(think));
    }
    message.prefix = flag(json, "prefix", false);
    message.trained = is_trained(json);
    if (const Json* calls = find(json, "tool_calls")) {
      message.tool_calls = read_calls(*calls, others_, place_);
    }
  }

  // "weight" of OpenAI and Mistral, "train" and "training" of axolotl, "loss" of ms-swift.
  bool is_trained(const Json& json) const {
    std::optional<bool> trained;
    for (const char* key : {"weight", "train", "training", "loss"}) {
      const Json* value = find(json, key);
      if (value == nullptr) continue;
      const bool is_weight = *value == 0 || *value == 1;
      if (!is_weight && (*key == 'w' || !value->is_boolean())) {
        refuse("\"{}\" is {}, but it must be 0 or 1", key, value->dump());
      }
      const bool says = *value == 1 || *value == true;
      if (trained.value_or(says) != says) refuse("\"{}\" says the opposite of another key", key);
      trained = says;
    }
    return trained.value_or(true);
  }

  void read_part(const Json& json, Message& message) {
    if (!json.is_object()) refuse("a part of \"content\" must be a JSON object");
    const std::string type = need_string(json, "type");
    Part part;
    if (type == "text") {
      read_text(need_text(json, "text"), message);
    } else if (type == "thinking") {
      part.kind = Part::Kind::kThink;
      part.text = need_text(json, "thinking");
      part.closed = flag(json, "closed", true);
      message.parts.push_back(std::move(part));
    } else if (type == "image" || type == "image_url") {
      part.kind = Part::Kind::kImage;
      part.image = read_image(json);
      message.parts.push_back(std::move(part));
    } else {
      refuse("a part of type \"{}\"; there are text, image, image_url and thinking", type);
    }
    check_part_keys(json, type, others_, place_);
  }

  ImageRef read_image(const Json& json) {
    ImageRef image;
    for (const char* key : {"height", "width"}) {
      const Json* side = find(json, key);
      if (side == nullptr) continue;
      if (!side->is_number_integer() || *side < 1 || *side > kMaxSide) {
        refuse("\"{}\" of an image is {}, but it must be a number of pixels", key, side->dump());
      }
      (*key == 'h' ? image.height : image.width) = side->get<int64_t>();
    }
    for (const char* key : {"path", "url", "base64", "bytes", "image", "image_url"}) {
      if (find(json, key) == nullptr) continue;
      ImageRef source = read_picture(json, others_, place_);
      image.source = std::move(source.source);
      image.bytes = std::move(source.bytes);
      return image;
    }
    if (image.height == 0 && image.width == 0) {
      check_index(json);
      image = next_row_image();
    } else if (image.height == 0 || image.width == 0) {
      refuse("an image needs both \"width\" and \"height\"");
    }
    return image;
  }

  // Some sets say which of the row's pictures is meant; they are dealt out in order.
  void check_index(const Json& json) const {
    const Json* index = find(json, "index");
    if (index == nullptr || *index == used_) return;
    refuse("\"index\" is {}, but the row's pictures are taken in order and this one is number {}",
           index->dump(), used_);
  }

  ImageRef next_row_image() {
    if (used_ == images_.size()) {
      refuse("an image that names nothing, after the row's {} images are used up", images_.size());
    }
    return images_[used_++];
  }

  Part row_image() {
    Part part;
    part.kind = Part::Kind::kImage;
    part.image = next_row_image();
    return part;
  }

  // A text, in messages of the user with the row's images where it says "<image>". In a row that
  // has no image the user's own words say so, but a data set has lost its pictures.
  void read_text(std::string_view text, Message& message) {
    const bool may_be_words = images_.empty() && others_ == OtherKeys::kRefused;
    const auto find_place = [&] {
      return message.role == Role::kUser && !may_be_words ? text.find(kImagePlaceholder)
                                                          : std::string_view::npos;
    };
    if (images_.empty() && find_place() != std::string_view::npos) {
      refuse(
          "the text says \"<image>\", but the row has no picture under \"images\"; give it, or "
          "take the word out");
    }
    for (size_t at = find_place(); at != std::string_view::npos; at = find_place()) {
      std::string_view before = text.substr(0, at);
      text.remove_prefix(at + kImagePlaceholder.size());
      if (text.starts_with('\n')) {
        text.remove_prefix(1);
      } else if (before.ends_with('\n')) {
        before.remove_suffix(1);
      }
      message.parts.push_back({.text = std::string(before)});
      message.parts.push_back(row_image());
    }
    message.parts.push_back({.text = std::string(text)});
  }

  void place_rest(Conversation& conversation) {
    if (used_ == images_.size()) return;
    if (used_ > 0) {
      user_error("{}: {} images, but the messages have a place for {}", what_, images_.size(),
                 used_);
    }
    for (Message& message : conversation.messages) {
      if (message.role != Role::kUser) continue;
      std::vector<Part> parts;
      while (used_ < images_.size()) parts.push_back(row_image());
      message.parts.insert(message.parts.begin(), parts.begin(), parts.end());
      return;
    }
    user_error("{}: {} images, but no user message", what_, images_.size());
  }

  const Json& row_;
  std::string what_;
  OtherKeys others_;
  std::string place_;
  std::vector<ImageRef> images_;
  size_t used_ = 0;
  std::vector<std::string> unread_;
};

}  // namespace

void make_plain_row(Json& row, const std::string& what) {
  for (const char* key : {"messages", "conversations", "images", "image", "texts"}) {
    const Json* value = row.is_object() ? find_said(row, key) : nullptr;
    if (value == nullptr || !value->is_string()) continue;
    const std::string& text = value->get_ref<const std::string&>();
    // A picture's path begins as no list does.
    const bool is_json = *key == 'i' ? text.starts_with("[\"") || text.starts_with("[{") : true;
    if (!is_json) continue;
    Json list = parse_json_of_single_keys(text, what + ": " + key);
    row[key] = std::move(list);
  }
  const bool has_turns = find_said(row, "messages") || find_said(row, "conversations");
  if (!has_turns && find_said(row, "texts")) make_messages_of_texts(row, what);
}

Conversation parse_conversation(Json row, const std::string& what, OtherKeys others) {
  make_plain_row(row, what);
  return RowReader(row, what, others).read();
}

}  // namespace trestle
