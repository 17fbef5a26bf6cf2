#include "chat/call_ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>

namespace trestle {

namespace {

bool is_id(const std::string& id) { return !id.empty() && id != "null"; }
bool has_id(const Message& result) { return result.tool_call_id && is_id(*result.tool_call_id); }

/// Pairs the calls of one assistant message with the results up to the next.
class Pairing {
 public:
  Pairing(std::vector<ToolCall>& calls, std::span<Message> after) : calls_(calls) {
    for (Message& message : after) {
      if (message.role == Role::kTool) results_.push_back(&message);
    }
  }

  void fill(size_t first_number) {
    name_calls_after_results();
    for (ToolCall& call : calls_) {
      if (!is_id(call.id)) call.id = fmt::format("call without id {}", first_number++);
    }
    name_results_after_calls();
  }

 private:
  void name_calls_after_results() {
    for (size_t i = 0; i < results_.size(); ++i) {
      const Message& result = *results_[i];
      if (!has_id(result) || has_call(*result.tool_call_id)) continue;
      const auto fits = [&](const ToolCall& call) {
        return !is_id(call.id) && is_of(result, call);
      };
      // The call at the same place, or the first that it fits.
      auto call = i < calls_.size() && fits(calls_[i])
                      ? calls_.begin() + static_cast<std::ptrdiff_t>(i)
                      : std::ranges::find_if(calls_, fits);
      if (call != calls_.end()) call->id = *result.tool_call_id;
    }
  }

  void name_results_after_calls() {
    std::set<std::string> answered;
    for (const Message* result : results_) {
      if (has_id(*result)) answered.insert(*result->tool_call_id);
    }
    for (Message* result : results_) {
      if (has_id(*result)) continue;
      const auto call = std::ranges::find_if(calls_, [&](const ToolCall& each) {
        return !answered.contains(each.id) && is_of(*result, each);
      });
      if (call == calls_.end()) continue;
      result->tool_call_id = call->id;
      answered.insert(call->id);
    }
  }

  bool has_call(const std::string& id) const {
    return std::ranges::find(calls_, id, &ToolCall::id) != calls_.end();
  }
  static bool is_of(const Message& result, const ToolCall& call) {
    return result.tool_name.empty() || result.tool_name == call.name;
  }

  std::vector<ToolCall>& calls_;
  std::vector<Message*> results_;
};

}  // namespace

void fill_call_ids(Conversation& conversation) {
  std::vector<Message>& messages = conversation.messages;
  size_t number = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].tool_calls.empty()) continue;
    const auto begin = messages.begin() + static_cast<std::ptrdiff_t>(i) + 1;
    const auto end = std::find_if(begin, messages.end(), [](const Message& message) {
      return message.role == Role::kAssistant;
    });
    Pairing(messages[i].tool_calls, {begin, end}).fill(number);
    number += messages[i].tool_calls.size();
  }
}

}  // namespace trestle
