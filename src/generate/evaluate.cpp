#include "generate/evaluate.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/error.h"
#include "chat/settings.h"
#include "data/cord.h"
#include "generate/scores.h"
#include "generate/stop.h"
#include "model/ministral3.h"

namespace trestle {

namespace {

constexpr const char *kExactMatch = "exact_match", *kAnls = "anls", *kFieldF1 = "field_f1",
                     *kTreeEditAccuracy = "tree_edit_accuracy",
                     *kChoiceAccuracy = "choice_accuracy";

std::string text_of(const Message& message) {
  std::string text;
  for (const Part& part : message.parts) text += part.text;
  return text;
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double Evaluation::field_accuracy() const {
  int64_t right = 0, total = 0;
  for (const ScoredAnswer& each : answers) {
    right += each.right;
    total += each.total;
  }
  return share(right, total);
}

double Evaluation::whole_accuracy() const {
  const auto whole =
      std::count_if(answers.begin(), answers.end(), [](const auto& each) { return each.whole(); });
  return share(whole, static_cast<int64_t>(answers.size()));
}

std::map<std::string, double> Evaluation::scores() const {
  std::map<std::string, double> sums;
  FieldCounts fields;
  int64_t documents = 0, choices = 0;
  for (const ScoredAnswer& each : answers) {
    sums[kExactMatch] += each.answer == each.wanted ? 1 : 0;
    sums[kAnls] += anls(each.answer, each.wanted);
    if (each.truth.is_structured()) {
      ++documents;
      const Json said = tags_to_json(each.answer);
      const FieldCounts counts = count_fields(each.truth, said);
      fields.same += counts.same;
      fields.other += counts.other;
      sums[kTreeEditAccuracy] += tree_edit_accuracy(each.truth, said);
    } else if (is_choice(each.wanted)) {
      ++choices;
      sums[kChoiceAccuracy] += choice_of(each.answer) == choice_of(each.wanted) ? 1 : 0;
    }
  }
  const auto count = std::ssize(answers);
  if (choices < count) sums.erase(kChoiceAccuracy);
  for (auto& [name, sum] : sums) {
    sum /= static_cast<double>(name == kTreeEditAccuracy ? documents : count);
  }
  if (documents > 0) {
    const double found = static_cast<double>(fields.same) + static_cast<double>(fields.other) / 2;
    sums[kFieldF1] = found == 0 ? 1 : static_cast<double>(fields.same) / found;
  }
  return sums;
}

std::vector<std::string> score_names() {
  return {kExactMatch, kAnls, kFieldF1, kTreeEditAccuracy, kChoiceAccuracy};
}

ScoredAnswer score_answer(const std::string& answer, const std::string& wanted, const Json& truth) {
  ScoredAnswer scored;
  scored.answer = answer;
  scored.wanted = wanted;
  scored.truth = truth;
  if (!truth.is_structured()) {
    scored.total = 1;
    scored.right = answer == wanted ? 1 : 0;
    return scored;
  }
  const auto fields = flat_fields(truth);
  const auto said = flat_fields(tags_to_json(answer));
  std::multimap<std::string, std::string> open(said.begin(), said.end());
  for (const auto& [path, value] : fields) {
    const auto [first, last] = open.equal_range(path);
    const auto match =
        std::find_if(first, last, [&](const auto& each) { return each.second == value; });
    if (match == last) continue;
    ++scored.right;
    open.erase(match);
  }
  scored.total = static_cast<int64_t>(std::max(fields.size(), said.size()));
  return scored;
}

Evaluation evaluate(const Forward& forward, const Processor& processor, const Dataset& dataset,
                    const EvaluationOptions& options,
                    const std::function<void(int64_t)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  const Generator generator(forward, stop_ids(processor.tokenizer()), options.decoding);
  const int64_t rows = options.rows > 0 ? std::min(options.rows, dataset.size()) : dataset.size();
  Evaluation evaluation;
  const int64_t step = options.ranks;
  for (int64_t first = options.rank; first < rows; first += step * options.batch_size) {
    const int64_t last = std::min(rows, first + step * options.batch_size);
    std::vector<Sample> prompts;
    std::vector<std::string> wanted, asked;
    for (int64_t row = first; row < last; row += step) {
      Conversation conversation = dataset.row(row);
      if (conversation.messages.empty() || conversation.messages.back().role != Role::kAssistant) {
        user_error("row {} does not end with an answer to compare with", row);
      }
      wanted.push_back(text_of(conversation.messages.back()));
      conversation.messages.pop_back();
      add_reasoning_effort(conversation, options.reasoning_effort);
      asked.push_back(conversation.messages.empty() ? "" : text_of(conversation.messages.back()));
      prompts.push_back(processor.process(std::move(conversation), Ending::kPrompt));
    }
    SamplingOptions sampling;
    sampling.max_new_tokens = options.max_new_tokens;
    const GenerationResult result = generator.generate(prompts, sampling);
    evaluation.stats += result.stats;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const int64_t row = first + step * static_cast<int64_t>(i);
      ScoredAnswer scored = score_answer(processor.tokenizer().decode(result.sequences[i].ids),
                                         wanted[i], dataset.ground_truth(row));
      scored.row = row;
      scored.prompt = std::move(asked[i]);
      scored.pictures = std::ssize(prompts[i].images_CHW);
      evaluation.answers.push_back(std::move(scored));
    }
    if (progress) progress(last);
  }
  evaluation.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return evaluation;
}

}  // namespace trestle
