#include "data/own_row.h"

#include <utility>

#include "chat/exchange.h"
#include "chat/json.h"
#include "chat/keys.h"

namespace trestle {

namespace {

// Beside messages a pair is refused by the reader of these.
const QuestionAnswer* pair_of(const Json& row) {
  return !row.is_object() || has_messages(row) ? nullptr : question_answer_of(row);
}

}  // namespace

bool is_own_row(const Json& row) {
  return row.is_object() && (row.contains("messages") || row.contains("conversations") ||
                             has_messages(row) || pair_of(row) != nullptr);
}

Conversation read_own_row(Json row, const std::string& what) {
  if (const QuestionAnswer* pair = pair_of(row)) make_messages(row, *pair, what);
  return parse_conversation(std::move(row), what);
}

Json own_ground_truth(Json row, const std::string& what) {
  const QuestionAnswer* pair = pair_of(row);
  return pair == nullptr ? Json() : Json(make_messages(row, *pair, what));
}

}  // namespace trestle
