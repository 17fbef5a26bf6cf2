#include "chat/json.h"

#include <algorithm>
#include <ranges>
#include <vector>

#include "base/base64.h"
#include "base/error.h"
#include "chat/settings.h"

namespace trestle {

namespace {

constexpr std::string_view kPlaceholder = "<image>";
constexpr int64_t kMaxSide = 1 << 24;

// Base64 of a JPEG, PNG or WebP without a word around it, as some data sets have it where others
// have a path: the first bytes of these formats, then nothing that base64 has not.
bool is_bare_base64(std::string_view text) {
  constexpr size_t kShortest = 64;  // no picture is smaller; a path may begin with "/9j/" too
  const bool begins =
      text.starts_with("/9j/") || text.starts_with("iVBORw0KGgo") || text.starts_with("UklGR");
  return begins && text.size() >= kShortest &&
         text.substr(0, kShortest).find_first_not_of(kBase64Alphabet) == text.npos;
}

std::string as_data_uri(const std::string& base64) {
  return base64.starts_with("data:") ? base64 : "data:image/any;base64," + base64;
}

/// Reads the messages of one row and deals out the row's own images.
class RowReader {
 public:
  RowReader(const Json& row, std::string what, OtherKeys others)
      : row_(row), what_(std::move(what)), others_(others) {}

  Conversation read() {
    if (!row_.is_object()) user_error("{}: a conversation must be a JSON object", what_);
    check_row_keys(row_, others_, what_);
    for (const char* key : {"images", "image"}) read_row_images(key);
    const char* key = row_.contains("messages") ? "messages" : "conversations";
    const Json* list = find(row_, key);
    if (list == nullptr || !list->is_array()) user_error("{}: \"messages\" must be a list", what_);
    Conversation conversation;
    for (const Json& message : *list) {
      place_ = fmt::format("{}: {}[{}]", what_, key, conversation.messages.size());
      conversation.messages.push_back(read_message(message));
      check_tool_name(message, conversation);
    }
    place_rest(conversation);
    read_tools(conversation);
    conversation.settings = read_settings(row_, what_);
    return conversation;
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: {}", place_, fmt::format(format, std::forward<Args>(args)...));
  }

  // The value of `key`, or nullptr if it is absent or null.
  static const Json* find(const Json& object, const char* key) {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }

  std::string need_string(const Json& object, const char* key) const {
    const Json* value = find(object, key);
    if (value == nullptr || !value->is_string()) refuse("\"{}\" must be a string", key);
    return value->get<std::string>();
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
      images_.push_back(read_source(image));
    }
  }

  // What names a picture or is one: a string, or an object that says which it is.
  ImageRef read_source(const Json& json) const {
    ImageRef image;
    if (json.is_string()) {
      image.source = json.get<std::string>();
      if (is_bare_base64(image.source)) image.source = as_data_uri(image.source);
    } else if (json.is_binary()) {
      const Json::binary_t& bytes = json.get_binary();
      image.source = place_;
      image.bytes = std::make_shared<const std::string>(bytes.begin(), bytes.end());
    } else if (json.is_object()) {
      check_picture_keys(json, others_, place_);
      for (const char* key : {"bytes", "base64", "path", "url", "image", "image_url"}) {
        const Json* value = find(json, key);
        if (value == nullptr) continue;
        if (*key != 'b') return read_source(*value);
        if (value->is_binary()) return read_source(*value);
        image.source = as_data_uri(need_string(json, key));
        return image;
      }
      refuse("a picture has none of \"path\", \"url\", \"base64\" and \"image\"");
    } else {
      refuse("a picture must be a path, a URL, a data: URI or an object that holds one");
    }
    return image;
  }

  void read_tools(Conversation& conversation) const {
    const Json* tools = find(row_, "tools");
    if (tools == nullptr) return;
    conversation.tools =
        tools->is_string() ? parse_json_of_single_keys(tools->get<std::string>(), what_ + ": tools")
                           : *tools;
    if (!conversation.tools.is_array() && !conversation.tools.is_null()) {
      user_error("{}: \"tools\" must be a list", what_);
    }
  }

  Message read_message(const Json& json) {
    if (!json.is_object()) refuse("a message must be a JSON object");
    Message message;
    message.role = read_role(json);
    check_message_keys(json, message.role, others_, place_);
    const Json* content = find(json, json.contains("content") ? "content" : "value");
    if (content != nullptr && content->is_string()) {
      read_text(content->get<std::string>(), message);
    } else if (content != nullptr && content->is_array()) {
      for (const Json& part : *content) message.parts.push_back(read_part(part));
    } else if (content != nullptr || message.role != Role::kAssistant) {
      refuse("\"content\" must be a string or a list of parts");
    }
    // Empty texts vanish in every layout.
    std::erase_if(message.parts, [](const Part& part) {
      return part.kind == Part::Kind::kText && part.text.empty();
    });
    if (message.role == Role::kAssistant) read_assistant(json, message);
    if (message.role == Role::kTool && find(json, "tool_call_id") != nullptr) {
      message.tool_call_id = need_string(json, "tool_call_id");
    }
    return message;
  }

  // The layout has no place for a tool's name, but it can be that of another call than the id's.
  void check_tool_name(const Json& json, const Conversation& conversation) const {
    const Message& result = conversation.messages.back();
    const Json* name = find(json, "name");
    if (result.role != Role::kTool || name == nullptr) return;
    const std::string id = result.tool_call_id.value_or("");
    for (const Message& message : conversation.messages | std::views::reverse) {
      const auto call = std::ranges::find(message.tool_calls, id, &ToolCall::id);
      if (call == message.tool_calls.end()) continue;
      if (*name == Json(call->name)) return;
      refuse("\"name\" is {}, but the call {} is of \"{}\"", name->dump(), call->id, call->name);
    }
  }

  Role read_role(const Json& json) const {
    const std::string role = need_string(json, json.contains("role") ? "role" : "from");
    if (role == "system") return Role::kSystem;
    if (role == "user" || role == "human") return Role::kUser;
    if (role == "assistant" || role == "gpt") return Role::kAssistant;
    if (role == "tool") return Role::kTool;
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
    if (const Json* weight = find(json, "weight")) {
      if (*weight != 0 && *weight != 1)
        refuse("\"weight\" is {}, but it must be 0 or 1", weight->dump());
      message.trained = *weight == 1;
    }
    if (const Json* calls = find(json, "tool_calls")) {
      if (!calls->is_array()) refuse("\"tool_calls\" must be a list");
      for (const Json& call : *calls) message.tool_calls.push_back(read_call(call));
    }
  }

  ToolCall read_call(const Json& json) const {
    const Json* function = json.is_object() ? find(json, "function") : nullptr;
    if (function == nullptr || !function->is_object()) {
      refuse("a tool call must be {{\"id\", \"function\": {{\"name\", \"arguments\"}}}}");
    }
    check_call_keys(json, others_, place_);
    ToolCall call;
    if (find(json, "id") != nullptr) call.id = need_string(json, "id");
    call.name = need_string(*function, "name");
    const Json* arguments = find(*function, "arguments");
    if (arguments != nullptr && arguments->is_object()) {
      call.arguments = arguments->dump();
    } else if (arguments != nullptr) {
      call.arguments = need_string(*function, "arguments");
    }
    return call;
  }

  Part read_part(const Json& json) {
    if (!json.is_object()) refuse("a part of \"content\" must be a JSON object");
    const std::string type = need_string(json, "type");
    Part part;
    if (type == "text") {
      part.text = need_string(json, "text");
    } else if (type == "thinking") {
      part.kind = Part::Kind::kThink;
      part.text = need_string(json, "thinking");
      part.closed = flag(json, "closed", true);
    } else if (type == "image" || type == "image_url") {
      part.kind = Part::Kind::kImage;
      part.image = read_image(json);
    } else {
      refuse("a part of type \"{}\"; there are text, image, image_url and thinking", type);
    }
    check_part_keys(json, type, others_, place_);
    return part;
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
      ImageRef source = read_source(json);
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

  // A string content: text, in user messages with the row's images where it says "<image>".
  void read_text(std::string_view text, Message& message) {
    const auto find_place = [&] {
      return message.role == Role::kUser && !images_.empty() ? text.find(kPlaceholder)
                                                             : std::string_view::npos;
    };
    for (size_t at = find_place(); at != std::string_view::npos; at = find_place()) {
      std::string_view before = text.substr(0, at);
      text.remove_prefix(at + kPlaceholder.size());
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
};

}  // namespace

Conversation parse_conversation(const Json& row, const std::string& what, OtherKeys others) {
  return RowReader(row, what, others).read();
}

void find_pictures_in(Conversation& conversation, const std::filesystem::path& folder) {
  for (Message& message : conversation.messages) {
    for (Part& part : message.parts) {
      std::string& source = part.image.source;
      if (part.kind == Part::Kind::kImage && !part.image.bytes && !source.empty() &&
          source.find(':') == std::string::npos && !source.starts_with('/')) {
        source = (folder / source).string();
      }
    }
  }
}

}  // namespace trestle
