// From logits to the next token: greedy, or drawn after temperature, top-k, top-p and min-p. Called
// by the generator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace trestle {

struct SamplingOptions {
  int64_t max_new_tokens = 256;
  /// 0: the likeliest token, whatever the options below say.
  double temperature = 0;
  /// The k likeliest tokens; 0 for all.
  int64_t top_k = 0;
  /// The likeliest tokens that together reach this probability.
  double top_p = 1;
  /// Tokens at least this share as probable as the likeliest.
  double min_p = 0;
  uint64_t seed = 0;
  /// How many of the likeliest tokens are told of each (Generation::logprobs); 0: none.
  int64_t logprobs = 0;
};

/// Throws UserError that names the flag of a value out of range.
void validate(const SamplingOptions& options);

/// A token that may be drawn, with a probability of weight / (sum of all weights).
struct Candidate {
  int64_t id;
  double weight;
};

/// What transformers' warpers leave, in their order: temperature, top-k, top-p, min-p, each on the
/// distribution that the one before left. Tokens that tie with the k-th stay, as there; of tokens
/// that tie at the edge of top-p the higher id stays first, as torch's stable sort has it. The
/// likeliest token always stays, with weight 1. Needs temperature > 0.
std::vector<Candidate> candidates(std::span<const float> logits_V, const SamplingOptions& options);

/// Chooses for several sequences at once; each draws from a generator of its own, so its text does
/// not depend on how long its neighbours go on. The draws are fixed to the bit on every machine:
/// std::mt19937_64 seeded by std::seed_seq{low half of seed, high half of seed, number of the
/// sequence}, its upper 53 bits as u in [0, 1), and the first candidate at which the running sum of
/// weights passes u times their total.
/// Throws UserError: logits of `dtype` are not finite.
[[noreturn]] void refuse_logits(at::ScalarType dtype);

class Sampler {
 public:
  Sampler(const SamplingOptions& options, size_t sequences);

  /// logits [B, V], one row a sequence -> B ids. Of equal logits greedy takes the lowest id. Throws
  /// UserError where the best logit is not finite, which damaged weights cause.
  std::vector<int64_t> next(const at::Tensor& logits_BV);
  /// Several tokens a sequence: the rows of a sequence beside each other, the first behind what it
  /// has, each further one behind one more of its proposals, as if those had been chosen. -> what
  /// each sequence goes on with: proposals as far as they are what is chosen anyway, and the token
  /// behind them. Draws are those of one call of next() a token.
  std::vector<std::vector<int64_t>> next(const at::Tensor& logits_RV,
                                         const std::vector<std::vector<int64_t>>& proposals);

 private:
  int64_t draw(std::span<const float> logits_V, std::mt19937_64& random) const;

  SamplingOptions options_;
  std::vector<std::mt19937_64> random_;
};

}  // namespace trestle
