// The commonest sample: pictures and a question, then an answer. Called by the data sets.
#pragma once

#include <string>
#include <vector>

#include "chat/chat.h"

namespace trestle {

/// What is asked where a data set has pictures and texts only, as cord-v2.
constexpr const char* kDescribe = "Describe this image.";

/// One user message, the pictures first, and one of the assistant.
Conversation exchange(std::vector<Part> pictures, std::string question, std::string answer);

/// The columns, or keys of an object, that hold a question and its answer.
struct QuestionAnswer {
  const char *question, *answer;
};

/// The pairs that data sets on the Hugging Face hub have: question / answer or answers (MedPix-VQA,
/// VQA-RAD; DocVQA and TextVQA, whose answers are a list), problem / solution (multimodal-open-r1),
/// query / label (ChartQA, a list of one), prompt / completion (TRL), prompt / response, query /
/// response (ms-swift), instruction / output (Alpaca, LLaMA-Factory).
const std::vector<QuestionAnswer>& question_answer_names();

/// The first pair of which `row` says both, or nullptr.
const QuestionAnswer* question_answer_of(const Json& row);

/// Turns the pair into "messages" as parse_conversation takes them and returns the answer; of a
/// list of answers, which are spellings of one, the first. An "input" beside an "instruction"
/// follows it on a new line, and a "history" of [question, answer] comes before, as LLaMA-Factory
/// has them. Throws UserError, opened by `what`, where one of them is no text.
std::string make_messages(Json& row, const QuestionAnswer& names, const std::string& what);

/// Turns "texts", [{"user", "assistant"}] as the Cauldron and FineVision have them, into
/// "messages", two for each. Throws UserError, opened by `what`.
void make_messages_of_texts(Json& row, const std::string& what);

}  // namespace trestle
