#include "generate/sampling.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "generate/logprobs.h"
#include "kernels/by_rows.h"

namespace trestle {

namespace {

// Moves the likeliest candidates whose weights reach `share` of the total to the front and drops
// the rest. A heap, since a handful of a hundred thousand is usual.
void keep_top_p(std::vector<Candidate>& kept, double share) {
  const auto is_worse = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id < b.id;
  };
  double total = 0;
  for (const Candidate& each : kept) total += each.weight;
  std::vector<Candidate> best;
  std::make_heap(kept.begin(), kept.end(), is_worse);
  double mass = 0;
  while (mass < share * total && !kept.empty()) {
    std::pop_heap(kept.begin(), kept.end(), is_worse);
    best.push_back(kept.back());
    mass += best.back().weight;
    kept.pop_back();
  }
  kept = std::move(best);
}

}  // namespace

void validate(const SamplingOptions& options) {
  if (options.max_new_tokens < 1) {
    user_error("--max-new-tokens {} is below 1; give how many tokens to make at most",
               options.max_new_tokens);
  }
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    user_error("--temperature {} is not a number from 0 up; 0 is greedy", options.temperature);
  }
  if (options.logprobs < 0 || options.logprobs > kMostLogprobs) {
    user_error("--logprobs {} is outside 0 to {}", options.logprobs, kMostLogprobs);
  }
  if (options.top_k < 0) user_error("--top-k {} is below 0; 0 keeps all tokens", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    user_error("--top-p {} is outside (0, 1]; 1 keeps all tokens", options.top_p);
  }
  if (!(options.min_p >= 0 && options.min_p <= 1)) {
    user_error("--min-p {} is outside [0, 1]; 0 keeps all tokens", options.min_p);
  }
}

std::vector<Candidate> candidates(std::span<const float> logits_V, const SamplingOptions& options) {
  TORCH_CHECK(options.temperature > 0, "candidates are for sampling, not for greedy decoding");
  const float best = *std::max_element(logits_V.begin(), logits_V.end());
  float least = -INFINITY;
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < logits_V.size()) {
    std::vector<float> sorted(logits_V.begin(), logits_V.end());
    const auto kth = sorted.begin() + (options.top_k - 1);
    std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
    least = *kth;
  }
  std::vector<Candidate> kept;
  for (size_t id = 0; id < logits_V.size(); ++id) {
    if (logits_V[id] < least) continue;
    const double below_best = static_cast<double>(logits_V[id]) - static_cast<double>(best);
    kept.push_back({static_cast<int64_t>(id), std::exp(below_best / options.temperature)});
  }
  if (options.top_p < 1) keep_top_p(kept, options.top_p);
  // The best weight is 1, so a weight is the share of its probability already.
  std::erase_if(kept, [&](const Candidate& each) { return each.weight < options.min_p; });
  return kept;
}

void refuse_logits(at::ScalarType dtype) {
  user_error("the model's logits are not finite; its weights are damaged or overflow in {}",
             c10::toString(dtype));
}

Sampler::Sampler(const SamplingOptions& options, size_t sequences) : options_(options) {
  validate(options);
  for (size_t i = 0; i < sequences; ++i) {
    std::seed_seq seeds{options.seed & 0xffffffffu, options.seed >> 32, static_cast<uint64_t>(i)};
    random_.emplace_back(seeds);
  }
}

namespace {

struct Likeliest {
  std::vector<int64_t> ids;
  std::vector<char> is_finite;  // the row has no NaN, and its largest logit is finite
};

Likeliest likeliest_of(const at::Tensor& logits_RV) {
  const int64_t R = logits_RV.size(0), V = logits_RV.size(1);
  Likeliest found{std::vector<int64_t>(static_cast<size_t>(R)),
                  std::vector<char>(static_cast<size_t>(R))};
  if (takes_row_loops({logits_RV})) {
    const at::Tensor logits = logits_RV.contiguous();
    by_value_type(logits, [&]<class Value>(Value) {
      const auto* rows = static_cast<const Value*>(logits.const_data_ptr());
      for (int64_t r = 0; r < R; ++r) {
        float largest = 0;
        found.ids[static_cast<size_t>(r)] =
            row_loops_here().of<Value>().argmax(rows + r * V, V, &largest);
        found.is_finite[static_cast<size_t>(r)] = std::isfinite(largest) ? 1 : 0;
      }
    });
    return found;
  }
  const auto [best_R, ids_R] = logits_RV.max(-1);  // carries a NaN of the row
  const at::Tensor is_finite = best_R.isfinite().cpu(), ids = ids_R.cpu();
  std::copy_n(ids.const_data_ptr<int64_t>(), R, found.ids.begin());
  std::copy_n(is_finite.const_data_ptr<bool>(), R, found.is_finite.begin());
  return found;
}

}  // namespace

std::vector<int64_t> Sampler::next(const at::Tensor& logits_BV) {
  std::vector<int64_t> ids;
  for (const auto& chosen : next(logits_BV, std::vector<std::vector<int64_t>>(random_.size()))) {
    ids.push_back(chosen.front());
  }
  return ids;
}

std::vector<std::vector<int64_t>> Sampler::next(
    const at::Tensor& logits_RV, const std::vector<std::vector<int64_t>>& proposals) {
  const Likeliest likeliest = likeliest_of(logits_RV);
  const bool greedy = options_.temperature == 0;
  const at::Tensor logits = greedy ? at::Tensor() : logits_RV.to(at::kFloat).cpu().contiguous();
  const auto vocabulary = static_cast<size_t>(logits_RV.size(1));
  const auto choose = [&](size_t sequence, size_t row) {
    if (!likeliest.is_finite[row]) refuse_logits(logits_RV.scalar_type());
    if (greedy) return likeliest.ids[row];
    return draw({logits.const_data_ptr<float>() + row * vocabulary, vocabulary}, random_[sequence]);
  };
  std::vector<std::vector<int64_t>> chosen(proposals.size());
  size_t first = 0;
  for (size_t i = 0; i < proposals.size(); ++i) {
    const std::vector<int64_t>& proposed = proposals[i];
    do {
      chosen[i].push_back(choose(i, first + chosen[i].size()));
    } while (chosen[i].size() <= proposed.size() &&
             chosen[i].back() == proposed[chosen[i].size() - 1]);
    first += proposed.size() + 1;
  }
  return chosen;
}

int64_t Sampler::draw(std::span<const float> logits_V, std::mt19937_64& random) const {
  const std::vector<Candidate> kept = candidates(logits_V, options_);
  double total = 0;
  for (const Candidate& each : kept) total += each.weight;
  // The standard's distributions differ between libraries; this does not.
  const double mark = static_cast<double>(random() >> 11) * 0x1p-53 * total;
  double sum = 0;
  for (const Candidate& each : kept) {
    sum += each.weight;
    if (sum > mark) return each.id;
  }
  return kept.back().id;
}

}  // namespace trestle
