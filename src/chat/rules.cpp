#include "chat/rules.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "base/error.h"

namespace trestle {

namespace {

constexpr std::string_view kNoId = "null";
constexpr size_t kOldIdLength = 9;

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  });
}

bool is_old_id(std::string_view text) {
  return text.size() == kOldIdLength && std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c));
         });
}

/// Checks one conversation; `place` of a message opens every error.
class Rules {
 public:
  Rules(const Conversation& conversation, int version, Ending ending)
      : messages_(conversation.messages), version_(version), ending_(ending) {}

  void check() const {
    if (messages_.empty()) user_error("messages: there are none; a conversation has at least one");
    if (messages_.size() == 1 && role(0) != Role::kUser && role(0) != Role::kSystem) {
      refuse(0, "a conversation starts with a user or system message");
    }
    for (size_t i = 0; i < messages_.size(); ++i) {
      check_order(i);
      check_parts(i);
      if (role(i) == Role::kAssistant) check_assistant(i);
      if (role(i) == Role::kTool) check_result_id(i);
    }
    check_pairs();
    check_ending();
  }

 private:
  template <class... Args>
  [[noreturn]] void refuse(size_t index, fmt::format_string<Args...> format, Args&&... args) const {
    user_error("messages[{}] ({}): {}", index, role_name(role(index)),
               fmt::format(format, std::forward<Args>(args)...));
  }

  Role role(size_t index) const { return messages_[index].role; }
  bool is_last(size_t index) const { return index + 1 == messages_.size(); }

  void check_order(size_t i) const {
    if (i == 0) {
      if (role(0) == Role::kTool) refuse(0, "a tool result must follow the assistant's tool call");
      return;
    }
    const Role before = role(i - 1), now = role(i);
    const bool answers = before == Role::kAssistant || before == Role::kTool;
    if ((now == Role::kTool && !answers) || (now == Role::kSystem && answers)) {
      refuse(i, "it must not follow a message of role {}", role_name(before));
    }
  }

  bool may_show(Role role) const {
    return role == Role::kUser || (role == Role::kTool && version_ >= 15);
  }

  bool may_think(Role role) const {
    return (role == Role::kAssistant && version_ >= 13) ||
           (role == Role::kSystem && version_ == 13);
  }

  void check_parts(size_t i) const {
    for (const Part& part : messages_[i].parts) {
      if (part.kind == Part::Kind::kImage && !may_show(role(i))) {
        refuse(i,
               "an image; only user messages may hold images, and tool results from layout v15 on");
      }
      if (part.kind == Part::Kind::kThink && !may_think(role(i))) {
        refuse(i,
               "a thinking part; only assistant messages from layout v13 on have them, and system "
               "messages of v13");
      }
    }
  }

  void check_assistant(size_t i) const {
    const Message& message = messages_[i];
    if (message.prefix && !is_last(i)) refuse(i, "only the last message can be a prefix");
    for (const ToolCall& call : message.tool_calls) {
      if (!is_name(call.name)) {
        refuse(i, "\"{}\" is no function name: 1 to 64 of a-z, A-Z, 0-9, _ and -", call.name);
      }
      if (version_ >= 13) {
        if (call.id.empty() || call.id == kNoId) refuse(i, "the call of {} has no id", call.name);
      } else if (call.id == kNoId) {
        if (!is_last(i) || ending_ == Ending::kPrompt) {
          refuse(i, "the call of {} has no id; layout v{} writes it: give it 9 letters or digits",
                 call.name, version_);
        }
      } else if (!is_old_id(call.id)) {
        refuse(i, "the call id \"{}\" must be 9 letters or digits in layout v{}", call.id,
               version_);
      }
    }
  }

  void check_result_id(size_t i) const {
    const auto& id = messages_[i].tool_call_id;
    if (!id || (version_ >= 13 && (id->empty() || *id == kNoId))) {
      const std::string& name = messages_[i].tool_name;
      refuse(i, "\"tool_call_id\" is missing{}",
             version_ < 13 ? fmt::format("; layout v{} writes it", version_)
             : name.empty()
                 ? ", and no call before it is without a result"
                 : fmt::format(", and no call of {} before it is without a result", name));
    }
    if (version_ < 13 && !is_old_id(*id)) {
      refuse(i, "the call id \"{}\" must be 9 letters or digits in layout v{}", *id, version_);
    }
  }

  // Results against calls: by count up to v7, by id from v11 on.
  void check_pairs() const {
    std::multiset<std::string> open;
    size_t caller = 0;
    const auto require_answered = [&] {
      if (!open.empty()) {
        refuse(caller, "{} of its tool calls have no result, the first is {}", open.size(),
               *open.begin());
      }
    };
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (role(i) == Role::kAssistant) {
        require_answered();
        caller = i;
        if (i == 0) continue;  // mistral-common's: the calls of a first message are never open
        for (const ToolCall& call : messages_[i].tool_calls) {
          if (version_ >= 11 && open.contains(call.id)) {
            refuse(i, "two tool calls have the id {}", call.id);
          }
          open.insert(call.id);
        }
      } else if (role(i) == Role::kTool) {
        const std::string& id = *messages_[i].tool_call_id;
        if (caller == 0 && role(0) == Role::kAssistant) {
          refuse(i,
                 "no result of messages[0]: a conversation that begins with an assistant's tool "
                 "call has none; begin with a system or user message");
        }
        const auto answered = version_ >= 11 ? open.find(id) : open.begin();
        if (answered == open.end()) refuse(i, "no open tool call has the id {}", id);
        open.erase(answered);
      }
    }
    if (ending_ == Ending::kPrompt) require_answered();
  }

  void check_ending() const {
    const size_t last = messages_.size() - 1;
    const bool finished = role(last) == Role::kAssistant && !messages_[last].prefix;
    if (ending_ == Ending::kPrompt && finished) {
      refuse(last, "nothing to answer: the last message must be of role user or tool");
    }
    if (ending_ == Ending::kSample && !finished) {
      refuse(last, "nothing to learn: the last message must be of role assistant and no prefix");
    }
  }

  const std::vector<Message>& messages_;
  int version_;
  Ending ending_;
};

}  // namespace

void check_conversation(const Conversation& conversation, int version, Ending ending) {
  Rules(conversation, version, ending).check();
}

}  // namespace trestle
