#include "chat/exchange.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace trestle {

namespace {

std::string text_of(const Json& row, const char* key, const std::string& what) {
  const Json* value = &row.at(key);
  if (value->is_array() && !value->empty()) value = &value->front();
  if (!value->is_string()) user_error("{}: \"{}\" must be a text or a list of texts", what, key);
  return value->get<std::string>();
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
      {"query", "label"},     {"prompt", "completion"}, {"prompt", "response"}};
  return names;
}

const QuestionAnswer* question_answer_of(const Json& row) {
  const auto found = std::ranges::find_if(question_answer_names(), [&](const QuestionAnswer& each) {
    return row.contains(each.question) && row.contains(each.answer);
  });
  return found == question_answer_names().end() ? nullptr : &*found;
}

std::string make_messages(Json& row, const QuestionAnswer& names, const std::string& what) {
  std::string answer = text_of(row, names.answer, what);
  row["messages"] =
      Json::array({Json{{"role", "user"}, {"content", text_of(row, names.question, what)}},
                   Json{{"role", "assistant"}, {"content", answer}}});
  row.erase(names.question);
  row.erase(names.answer);
  return answer;
}

}  // namespace trestle
