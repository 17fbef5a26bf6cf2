#include "generate/evaluate.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/error.h"
#include "data/cord.h"
#include "generate/stop.h"

namespace trestle {

namespace {

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

ScoredAnswer score_answer(const std::string& answer, const std::string& wanted, const Json& truth) {
  ScoredAnswer scored{.answer = answer, .wanted = wanted};
  if (truth.is_null()) {
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

Evaluation evaluate(const Ministral3& model, const Processor& processor, const Dataset& dataset,
                    const EvaluationOptions& options,
                    const std::function<void(int64_t)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  const Generator generator(model, stop_ids(processor.tokenizer()));
  const int64_t rows = options.rows > 0 ? std::min(options.rows, dataset.size()) : dataset.size();
  Evaluation evaluation;
  for (int64_t first = 0; first < rows; first += options.batch_size) {
    const int64_t last = std::min(rows, first + options.batch_size);
    std::vector<Sample> prompts;
    std::vector<std::string> wanted;
    for (int64_t row = first; row < last; ++row) {
      Conversation conversation = dataset.row(row);
      if (conversation.messages.empty() || conversation.messages.back().role != Role::kAssistant) {
        user_error("row {} does not end with an answer to compare with", row);
      }
      std::string text;
      for (const Part& part : conversation.messages.back().parts) text += part.text;
      wanted.push_back(std::move(text));
      conversation.messages.pop_back();
      prompts.push_back(processor.process(std::move(conversation), Ending::kPrompt));
    }
    SamplingOptions sampling;
    sampling.max_new_tokens = options.max_new_tokens;
    const GenerationResult result = generator.generate(prompts, sampling);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const int64_t row = first + static_cast<int64_t>(i);
      evaluation.answers.push_back(
          score_answer(processor.tokenizer().decode(result.sequences[i].ids), wanted[i],
                       dataset.ground_truth(row)));
      evaluation.answers.back().row = row;
    }
    if (progress) progress(last);
  }
  evaluation.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return evaluation;
}

}  // namespace trestle
