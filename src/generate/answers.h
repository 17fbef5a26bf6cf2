// Answers as they grow: where each ends, what is told of it, and what its text foretells. Called by
// the generator.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/processor.h"
#include "generate/generator.h"

namespace trestle {

class Answers {
 public:
  Answers(const std::vector<Sample>& prompts, int64_t max_new_tokens, std::vector<int64_t> stop_ids,
          Generator::OnToken on_token);

  size_t count() const { return answers_.size(); }
  bool is_finished(size_t i) const { return !answers_[i].finish_reason.empty(); }
  int64_t running() const { return running_; }
  /// Of all answers.
  int64_t tokens() const { return tokens_; }

  /// The next token of answer i; of a finished one nothing is kept.
  void take(size_t i, int64_t id, std::optional<Logprobs> logprobs);
  /// prompt_lookup() in prompt and answer, no more than leaves room for the token behind them.
  std::span<const int64_t> lookup(size_t i, int64_t most) const;

  std::vector<Generation> release() { return std::move(answers_); }

 private:
  int64_t max_new_tokens_;
  std::vector<int64_t> stop_ids_;
  Generator::OnToken on_token_;
  std::vector<Generation> answers_;
  // Prompt and answer.
  std::vector<std::vector<int64_t>> texts_;
  int64_t running_, tokens_ = 0;
};

}  // namespace trestle
