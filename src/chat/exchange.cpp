#include "chat/exchange.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "chat/keys.h"

namespace trestle {

namespace {

// The text under `key`, or the one text of a list; of `several` the first.
std::string text_of(const Json& row, const char* key, bool several, const std::string& what) {
  const Json* value = &row.at(key);
  if (value->is_array() && value->size() > 1 && !several) {
    user_error("{}: \"{}\" holds {} texts, and one is read; make them messages", what, key,
               value->size());
  }
  if (value->is_array() && !value->empty()) value = &value->front();
  if (!value->is_string()) user_error("{}: \"{}\" must be a text or a list of texts", what, key);
  return value->get<std::string>();
}

void append_turn(Json& messages, std::string question, std::string answer) {
  messages.push_back({{"role", "user"}, {"content", std::move(question)}});
  messages.push_back({{"role", "assistant"}, {"content", std::move(answer)}});
}

// [[question, answer], ...], the earlier turns.
void append_history(Json& messages, const Json& history, const std::string& what) {
  const auto is_turn = [](const Json& turn) {
    return turn.is_array() && turn.size() == 2 && turn[0].is_string() && turn[1].is_string();
  };
  if (!history.is_array() || !std::ranges::all_of(history, is_turn)) {
    user_error("{}: \"history\" must be a list of [question, answer]", what);
  }
  for (const Json& turn : history) append_turn(messages, turn[0], turn[1]);
}

}  // namespace

Conversation exchange(std::vector<Part> pictures, std::string question, std::string answer) {
  Message user = text_message(Role::kUser, std::move(question));
  user.parts.insert(user.parts.begin(), std::make_move_iterator(pictures.begin()),
                    std::make_move_iterator(pictures.end()));
  return {{user, text_message(Role::kAssistant, std::move(answer))}, nullptr};
}

const std::vector<QuestionAnswer>& question_answer_names() {
  static const std::vector<QuestionAnswer> names = {
      {"question", "answer"}, {"question", "answers"},  {"problem", "solution"},
      {"query", "label"},     {"prompt", "completion"}, {"prompt", "response"},
      {"query", "response"},  {"instruction", "output"}};
  return names;
}

const QuestionAnswer* question_answer_of(const Json& row) {
  const auto found = std::ranges::find_if(question_answer_names(), [&](const QuestionAnswer& each) {
    return find_said(row, each.question) != nullptr && find_said(row, each.answer) != nullptr;
  });
  return found == question_answer_names().end() ? nullptr : &*found;
}

std::string make_messages(Json& row, const QuestionAnswer& names, const std::string& what) {
  std::string question = text_of(row, names.question, false, what);
  std::string answer = text_of(row, names.answer, true, what);
  Json messages = Json::array();
  if (const Json* history = find_said(row, "history")) append_history(messages, *history, what);
  const bool has_input = names.question == std::string_view("instruction");
  if (has_input && find_said(row, "input") != nullptr) {
    question += '\n';
    question += text_of(row, "input", false, what);
    row.erase("input");
  }
  append_turn(messages, std::move(question), answer);
  for (const char* key : {names.question, names.answer, "history"}) row.erase(key);
  row["messages"] = std::move(messages);
  return answer;
}

void make_messages_of_texts(Json& row, const std::string& what) {
  Json messages = Json::array();
  const Json texts = row.at("texts");
  if (!texts.is_array()) user_error("{}: \"texts\" must be a list", what);
  for (const Json& text : texts) {
    const std::string where = fmt::format("{}: texts[{}]", what, messages.size() / 2);
    const auto said = [&](const char* key) {
      const Json* value = text.is_object() ? find_said(text, key) : nullptr;
      if (value == nullptr || !value->is_string()) user_error("{}: it has no {}", where, key);
      return value->get<std::string>();
    };
    std::string user = said("user"), assistant = said("assistant");
    check_text_keys(text, OtherKeys::kOfDataSets, where);
    append_turn(messages, std::move(user), std::move(assistant));
  }
  row.erase("texts");
  row["messages"] = std::move(messages);
}

}  // namespace trestle
