// From logits to the next token on a card, so that no logit travels to the host: what
// generate/sampling.h leaves of a distribution, and a draw from it.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// A row of more logits is refused (cudaErrorInvalidValue).
constexpr int64_t kMostLogits = 262144;

/// logits [rows, columns] -> ids [rows]; -1 where a row's best logit is not finite. temperature 0
/// takes the likeliest, of equal ones the lowest id. Otherwise temperature, top_k (0: all), top_p
/// (1: all) and min_p (0: all) leave the tokens that generate/sampling.h's candidates() leaves,
/// ties included, with weights exp((logit - best) / temperature) in steps of 2^-38, whose sums are
/// exact: the same in any order. The draw is 64 bits of Philox of `seed` at counters `offset`, a
/// number on the device, and the row: the first id at which the running sum of weights passes that
/// share of their total. (The host's sampler draws from another generator, and with top_p < 1
/// counts from the likeliest on.)
struct Sample {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0;
  const void* logits = nullptr;
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1, min_p = 0;
  uint64_t seed = 0;
  const uint64_t* offset = nullptr;
  int64_t* ids = nullptr;
};
int sample(const Sample& args, Stream stream);

}  // namespace trestle::cuda
