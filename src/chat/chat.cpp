#include "chat/chat.h"

#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "chat/call_ids.h"
#include "chat/canonical.h"
#include "chat/rules.h"
#include "chat/settings.h"
#include "chat/turns.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/utf8.h"

namespace trestle {

namespace {

constexpr int64_t kIgnored = -100;

std::string tools_text(const Json& tools) {
  Json list = Json::array();
  for (const Json& tool : tools) {
    const std::string place = fmt::format("tools[{}]", list.size());
    const auto field = [&](const Json& object, const char* key) {
      return object.is_object() && object.contains(key) ? object[key] : Json();
    };
    const Json function = field(tool, "function");
    const Json name = field(function, "name");
    Json description = field(function, "description"), parameters = field(function, "parameters");
    if (!name.is_string()) {
      user_error("{}: it must be {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}",
                 place);
    }
    if (description.is_null()) description = "";
    if (parameters.is_null()) parameters = Json::object();
    if (!description.is_string() || !parameters.is_object()) {
      user_error("{} ({}): \"description\" must be a string and \"parameters\" an object", place,
                 name.get<std::string>());
    }
    list.push_back(
        {{"type", "function"},
         {"function", {{"name", name}, {"description", description}, {"parameters", parameters}}}});
  }
  return *python_json(list.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// Arguments and v3 results: JSON in Python's spelling, any other text as a JSON string.
std::string canonical(std::string_view text) {
  if (text.empty()) return "{}";
  const auto json = python_json(text);
  return json ? *json : python_json_string(text);
}

/// Writes the turns of one conversation.
class Writer {
 public:
  Writer(const Tokenizer& tokenizer, int version) : tokenizer_(tokenizer), version_(version) {}

  EncodedChat take() { return std::move(out_); }

  void control(std::string_view name) { push(tokenizer_.special(name)); }

  void text(std::string_view text) {
    for (const int64_t id : tokenizer_.encode(text)) push(id);
  }

  void parts(const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      switch (part.kind) {
        case Part::Kind::kText:
          text(part.text);
          break;
        case Part::Kind::kThink:
          control("[THINK]");
          text(part.text);
          if (part.closed) control("[/THINK]");
          break;
        case Part::Kind::kImage:
          image(part.image);
      }
    }
  }

  void tools(const Json& tools) {
    control("[AVAILABLE_TOOLS]");
    text(tools_text(tools));
    control("[/AVAILABLE_TOOLS]");
  }

  // `json` is empty where there is nothing to set.
  void settings(std::string_view json) {
    if (json.empty()) return;
    control("[MODEL_SETTINGS]");
    text(json);
    control("[/MODEL_SETTINGS]");
  }

  void system(const Message& message) {
    control("[SYSTEM_PROMPT]");
    parts(message.parts);
    control("[/SYSTEM_PROMPT]");
  }

  // `system_prompt` is not empty in the one turn of layout v3 that takes it.
  void user(Message message, std::string system_prompt) {
    std::vector<Part>& content = message.parts;
    if (content.size() == 2 && content[0].kind == Part::Kind::kText &&
        content[1].kind == Part::Kind::kImage) {
      std::swap(content[0], content[1]);
    }
    control("[INST]");
    if (!system_prompt.empty()) {
      system_prompt += kEmptyLine;
      if (is_plain_text(content)) {
        if (!content.empty()) system_prompt += content[0].text;
        content.clear();
      }
      text(system_prompt);
    }
    parts(content);
    control("[/INST]");
  }

  void assistant(Message message, size_t index) {
    std::vector<Part>& content = message.parts;
    if (content.empty() && message.tool_calls.empty()) {
      user_error("messages[{}] (assistant): it has neither content nor tool_calls", index);
    }
    if (version_ == 3 && !content.empty() && !message.tool_calls.empty()) {
      user_error(
          "messages[{}] (assistant): content and tool_calls together, which layout v3 does not "
          "have",
          index);
    }
    if (!content.empty() && is_plain_text(content)) {
      std::string& text = content[0].text;
      text.erase(text.find_last_not_of(' ') + 1);
    }
    mask_ = message.trained ? 1 : 0;
    parts(content);
    if (!message.tool_calls.empty()) calls(message.tool_calls);
    if (!message.prefix) control("</s>");
    mask_ = 0;
  }

  void result(const Message& message) {
    const std::string& id = *message.tool_call_id;
    control("[TOOL_RESULTS]");
    if (version_ == 3) {
      const std::string content = message.parts.empty() ? "" : message.parts[0].text;
      text(fmt::format(R"({{"content": {}, "call_id": {}}})", canonical(content),
                       python_json_string(id)));
    } else {
      if (version_ < 13) {
        text(id);
        control("[TOOL_CONTENT]");
      }
      parts(message.parts);
    }
    control("[/TOOL_RESULTS]");
  }

 private:
  void push(int64_t id) {
    out_.ids.push_back(id);
    out_.mask.push_back(mask_);
  }

  void calls(const std::vector<ToolCall>& calls) {
    const auto has_id = [](const ToolCall& call) { return !call.id.empty() && call.id != "null"; };
    if (version_ < 11) {
      std::string list;
      for (const ToolCall& call : calls) {
        list += fmt::format(R"({}{{"name": {}, "arguments": {})", list.empty() ? "" : ", ",
                            python_json_string(call.name), canonical(call.arguments));
        if (has_id(call)) list += R"(, "id": )" + python_json_string(call.id);
        list += '}';
      }
      control("[TOOL_CALLS]");
      text("[" + list + "]");
      return;
    }
    for (const ToolCall& call : calls) {
      control("[TOOL_CALLS]");
      text(call.name);
      if (version_ == 11 && has_id(call)) {
        control("[CALL_ID]");
        text(call.id);
      }
      control("[ARGS]");
      text(canonical(call.arguments));
    }
  }

  void image(const ImageRef& ref) {
    TORCH_CHECK(ref.rows > 0 && ref.cols > 0, "an image without its grid");
    const int64_t img = tokenizer_.special("[IMG]");
    const int64_t row_end = tokenizer_.special("[IMG_BREAK]");
    const size_t begin = out_.ids.size();
    for (int64_t row = 0; row < ref.rows; ++row) {
      for (int64_t col = 0; col < ref.cols; ++col) push(img);
      push(row_end);
    }
    out_.ids.back() = tokenizer_.special("[IMG_END]");
    out_.images.push_back({ref, begin, out_.ids.size()});
  }

  const Tokenizer& tokenizer_;
  int version_;
  uint8_t mask_ = 0;
  EncodedChat out_;
};

}  // namespace

std::string_view role_name(Role role) {
  constexpr std::string_view kNames[] = {"system", "user", "assistant", "tool"};
  return kNames[static_cast<size_t>(role)];
}

Message text_message(Role role, std::string text) {
  Message message;
  message.role = role;
  if (!text.empty()) message.parts.push_back({.text = std::move(text)});
  return message;
}

ChatEncoder::ChatEncoder(const Tokenizer& tokenizer, std::optional<int> version)
    : tokenizer_(tokenizer), version_(version.value_or(tokenizer.version())) {
  constexpr int kVersions[] = {3, 7, 11, 13, kSettingsVersion};
  if (std::ranges::find(kVersions, version_) == std::end(kVersions)) {
    user_error("{}: conversations of layout v{} are not supported; v{} are",
               tokenizer.file().string(), version_, fmt::join(kVersions, ", v"));
  }
  if (version_ >= kSettingsVersion) {
    for (const char* name : {"[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"}) tokenizer.special(name);
  }
}

EncodedChat ChatEncoder::encode(Conversation conversation, Ending ending) const {
  if (version_ >= 13) fill_call_ids(conversation);
  check_conversation(conversation, version_, ending);
  const std::string settings = settings_json(conversation.settings, tokenizer_, version_);
  std::vector<Turn> turns = merge_messages(conversation, version_);
  std::string system_prompt;
  if (version_ == 3) system_prompt = take_system_prompt(turns);
  const bool has_tools = !conversation.tools.is_null() && !conversation.tools.empty();
  const size_t preface_at = find_user(turns, version_ >= 13);
  const size_t last_user = find_user(turns, false);

  Writer writer(tokenizer_, version_);
  writer.control("<s>");
  for (size_t i = 0; i < turns.size(); ++i) {
    Message& message = turns[i].message;
    switch (message.role) {
      case Role::kSystem:
        writer.system(message);
        break;
      case Role::kUser:
        if (has_tools && i == preface_at) writer.tools(conversation.tools);
        if (i == preface_at) writer.settings(settings);
        writer.user(std::move(message), i == last_user ? system_prompt : "");
        break;
      case Role::kAssistant:
        writer.assistant(std::move(message), turns[i].index);
        break;
      case Role::kTool:
        writer.result(message);
    }
  }
  return writer.take();
}

std::vector<int64_t> next_token_labels(const EncodedChat& chat) {
  std::vector<int64_t> labels(chat.ids.size(), kIgnored);
  for (size_t i = 0; i + 1 < labels.size(); ++i) {
    if (chat.mask[i + 1] != 0) labels[i] = chat.ids[i + 1];
  }
  return labels;
}

void add_system_prompt(Conversation& conversation, std::string_view choice,
                       const Tokenizer& tokenizer) {
  const std::vector<Message>& messages = conversation.messages;
  if (choice == "none" || choice.empty() ||
      (!messages.empty() && messages[0].role == Role::kSystem))
    return;
  require_utf8(choice, "--system-prompt");
  std::string text(choice);
  if (choice == "default") {
    const auto prompt = default_system_prompt(tokenizer.file().parent_path());
    if (!prompt) {
      user_error(
          "--system-prompt default: {} has no default system prompt (a chat template with one, or "
          "SYSTEM_PROMPT.txt); use none or give the text",
          tokenizer.file().parent_path().string());
    }
    text = *prompt;
  }
  constexpr std::string_view kOpen = "[THINK]", kClose = "[/THINK]";
  const size_t open = text.find(kOpen), close = text.find(kClose, open);
  Message message = text_message(Role::kSystem, text);
  if (close != std::string::npos && tokenizer.find_special(kOpen) &&
      tokenizer.find_special(kClose)) {
    const size_t inside = open + kOpen.size(), after = close + kClose.size();
    message.parts.clear();
    append_part(message.parts, {.text = text.substr(0, open)});
    append_part(message.parts,
                {.kind = Part::Kind::kThink, .text = text.substr(inside, close - inside)});
    append_part(message.parts, {.text = text.substr(after)});
  }
  conversation.messages.insert(conversation.messages.begin(), std::move(message));
}

}  // namespace trestle
