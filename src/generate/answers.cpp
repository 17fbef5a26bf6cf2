#include "generate/answers.h"

#include <algorithm>

#include "generate/prompt_lookup.h"

namespace trestle {

Answers::Answers(const std::vector<Sample>& prompts, int64_t max_new_tokens,
                 std::vector<int64_t> stop_ids, Generator::OnToken on_token)
    : max_new_tokens_(max_new_tokens),
      stop_ids_(std::move(stop_ids)),
      on_token_(std::move(on_token)),
      answers_(prompts.size()),
      running_(std::ssize(prompts)) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    texts_.push_back(prompts[i].ids);
    answers_[i].prompt_tokens = std::ssize(prompts[i].ids);
  }
}

void Answers::take(size_t i, int64_t id, std::optional<Logprobs> logprobs) {
  if (is_finished(i)) return;
  Generation& answer = answers_[i];
  answer.ids.push_back(id);
  texts_[i].push_back(id);
  ++tokens_;
  if (logprobs) answer.logprobs.push_back(std::move(*logprobs));
  if (on_token_) on_token_(i, id);
  if (std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end()) {
    answer.finish_reason = "stop";
  } else if (std::ssize(answer.ids) == max_new_tokens_) {
    answer.finish_reason = "length";
  }
  if (is_finished(i)) --running_;
}

std::span<const int64_t> Answers::lookup(size_t i, int64_t most) const {
  return prompt_lookup(texts_[i],
                       std::min(most, max_new_tokens_ - std::ssize(answers_[i].ids) - 1));
}

}  // namespace trestle
