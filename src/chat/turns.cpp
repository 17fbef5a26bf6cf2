#include "chat/turns.h"

#include <algorithm>

namespace trestle {

namespace {

// Results take the order of the calls they answer, which the rules have matched to them.
void sort_results(std::vector<Turn>& turns, size_t first) {
  if (first == 0 || first == turns.size()) return;
  const std::vector<ToolCall>& calls = turns[first - 1].message.tool_calls;
  const auto order = [&](const Turn& turn) {
    return std::find_if(calls.begin(), calls.end(), [&](const ToolCall& call) {
      return call.id == *turn.message.tool_call_id;
    });
  };
  std::stable_sort(turns.begin() + static_cast<std::ptrdiff_t>(first), turns.end(),
                   [&](const Turn& a, const Turn& b) { return order(a) < order(b); });
}

// The first text of a message may follow that of another one; the others follow their own.
void append_content(std::vector<Part>& parts, const Message& message, int version) {
  const std::string_view within = version < kSettingsVersion ? kEmptyLine : "";
  bool is_first_text = true;
  for (const Part& part : message.parts) {
    append_part(parts, part, is_first_text ? kEmptyLine : within);
    if (part.kind == Part::Kind::kText && !part.text.empty()) is_first_text = false;
  }
}

}  // namespace

bool is_plain_text(const std::vector<Part>& parts) {
  return parts.empty() || (parts.size() == 1 && parts[0].kind == Part::Kind::kText);
}

void append_part(std::vector<Part>& parts, Part part, std::string_view separator) {
  const bool is_text = part.kind == Part::Kind::kText;
  if (is_text && part.text.empty()) return;
  if (is_text && !parts.empty() && parts.back().kind == Part::Kind::kText) {
    parts.back().text.append(separator).append(part.text);
  } else {
    parts.push_back(std::move(part));
  }
}

std::vector<Turn> merge_messages(const Conversation& conversation, int version) {
  std::vector<Turn> turns;
  size_t first_result = 0;  // of the run of tool results that ends `turns`
  const auto finish_results = [&] {
    if (version >= 11) sort_results(turns, first_result);
    first_result = turns.size();
  };
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    const Message& message = conversation.messages[i];
    if (message.role != Role::kTool) finish_results();
    const bool merges = message.role == Role::kUser || message.role == Role::kAssistant;
    if (!merges || turns.empty() || turns.back().message.role != message.role ||
        turns.back().message.trained != message.trained) {
      turns.push_back({message, i});
      turns.back().message.parts.clear();
      turns.back().message.tool_calls.clear();
    }
    if (message.role != Role::kTool) first_result = turns.size();
    Message& merged = turns.back().message;
    append_content(merged.parts, message, version);
    merged.tool_calls.insert(merged.tool_calls.end(), message.tool_calls.begin(),
                             message.tool_calls.end());
    merged.prefix |= message.prefix;
  }
  finish_results();
  return turns;
}

std::string take_system_prompt(std::vector<Turn>& turns) {
  std::string prompt;
  for (const Turn& turn : turns) {
    if (turn.message.role != Role::kSystem || turn.message.parts.empty()) continue;
    if (!prompt.empty()) prompt += kEmptyLine;
    prompt += turn.message.parts[0].text;
  }
  std::erase_if(turns, [](const Turn& turn) { return turn.message.role == Role::kSystem; });
  if (turns.empty() || turns[0].message.role != Role::kUser) {
    turns.insert(turns.begin(), {text_message(Role::kUser, ""), 0});
  }
  return prompt;
}

size_t find_user(const std::vector<Turn>& turns, bool first) {
  size_t found = turns.size();
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].message.role != Role::kUser) continue;
    found = i;
    if (first) break;
  }
  return found;
}

}  // namespace trestle
