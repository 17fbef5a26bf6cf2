// How likely the model held what it wrote, and what else: log-probabilities of each token, as
// OpenAI's and vLLM's interfaces give them. Called by the generator and `trestle generate`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"

namespace trestle {

class Tokenizer;

/// OpenAI's most.
constexpr int64_t kMostLogprobs = 20;

/// Natural logarithms over the whole vocabulary, of the logits as the model has them: before
/// temperature, top-k, top-p and min-p (vLLM's `raw_logprobs`, its default).
struct TokenLogprob {
  int64_t id = 0;
  double logprob = 0;
};
struct Logprobs {
  TokenLogprob chosen;
  /// The likeliest tokens, best first, of equal ones the lower id first. The chosen one is among
  /// them only where it is one of them, as at OpenAI.
  std::vector<TokenLogprob> top;
};

/// logits [B, V] and the B ids chosen from them -> B; `top` from 1 to V tokens each.
std::vector<Logprobs> logprobs_of(const at::Tensor& logits_BV, const std::vector<int64_t>& ids,
                                  int64_t top);

/// OpenAI's `logprobs` of a choice: {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}.
/// Special tokens are there by their names, the one that ended the answer too. A token that is a
/// part of a character has U+FFFD in its text; `bytes` are always its own. An id without a token
/// has the text "<id N>" and null for bytes.
Json logprobs_json(std::span<const Logprobs> tokens, const Tokenizer& tokenizer);
/// A line a token for people: its text quoted, its logprob, and the likeliest.
std::string logprobs_table(std::span<const Logprobs> tokens, const Tokenizer& tokenizer);

}  // namespace trestle
