// Answers from prompts: one prefill of all of them, then one token a step from the KV cache.
// Called by `trestle generate`, evaluation and the demo.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "data/processor.h"
#include "generate/logprobs.h"
#include "generate/sampling.h"
#include "model/config.h"

namespace trestle {

class Ministral3;

struct Generation {
  /// What the model emitted, the stop token included.
  std::vector<int64_t> ids;
  /// "stop" at a stop token, "length" at max_new_tokens.
  std::string_view finish_reason;
  int64_t prompt_tokens = 0;
  /// Of each of `ids` where SamplingOptions::logprobs asks for them, else empty.
  std::vector<Logprobs> logprobs = {};
};

struct GenerationStats {
  /// Tokens of all prompts, and the time to the first token of every answer (images included).
  int64_t prefill_tokens = 0;
  double prefill_seconds = 0;
  /// All tokens behind the first ones, and their time.
  int64_t decode_tokens = 0;
  double decode_seconds = 0;
};

struct GenerationResult {
  /// In the order of the prompts.
  std::vector<Generation> sequences;
  GenerationStats stats;
};

/// What generate() would refuse, told before any weight is loaded. Throws UserError on options out
/// of range, a prompt that leaves no room for max_new_tokens in the model's context, ids outside
/// its vocabulary, and images that it cannot take.
void check_prompts(const ModelConfig& config, const std::vector<Sample>& prompts,
                   const SamplingOptions& options);

class Generator {
 public:
  /// Called once for each token of each answer, as it is made.
  using OnToken = std::function<void(size_t sequence, int64_t id)>;

  /// Keeps a reference to `model`, which must be in eval mode (an adapter's dropout would act
  /// otherwise).
  Generator(const Ministral3& model, std::vector<int64_t> stop_ids)
      : model_(model), stop_ids_(std::move(stop_ids)) {}

  /// Prompts of different lengths go together; labels are not read. An answer does not depend on
  /// its neighbours but for the order of sums in matrix products. Throws UserError as check_prompts
  /// does.
  GenerationResult generate(const std::vector<Sample>& prompts, const SamplingOptions& options,
                            const OnToken& on_token = {}) const;

 private:
  bool is_stop(int64_t id) const;

  const Ministral3& model_;
  std::vector<int64_t> stop_ids_;
};

}  // namespace trestle
