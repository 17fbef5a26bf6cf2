// Answers from prompts: a prefill of all of them, then a step a token, or several tokens where the
// prompt foretells them, from the KV cache.
// Called by `trestle generate`, evaluation and the demo.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/processor.h"
#include "generate/forward.h"
#include "generate/logprobs.h"
#include "generate/sampling.h"
#include "model/config.h"

namespace trestle {

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
  /// Forwards that the prompts took.
  int64_t prefill_chunks = 0;
  /// All tokens behind the first ones, and their time.
  int64_t decode_tokens = 0;
  double decode_seconds = 0;
  /// Steps that made these, of all sequences at once, and what prompt lookup proposed and the model
  /// would have chosen itself: an answer's tokens behind its first are its steps and what was
  /// accepted for it.
  int64_t decode_steps = 0, proposed_tokens = 0, accepted_tokens = 0;

  GenerationStats& operator+=(const GenerationStats& other);
};

/// "prefill 12 tokens in 0.10 s (120.0 tokens/s), decode 30 tokens in 1.00 s (30.0 tokens/s)", and
/// of chunks and proposals where there are any.
std::string describe(const GenerationStats& stats);

/// How answers are computed; but for the order of sums they do not depend on it.
struct DecodingOptions {
  /// Tokens of prompts that a forward takes at most (prefill.h).
  int64_t prefill_chunk_size = 2048;
  /// Tokens of each answer that prompt_lookup() proposes at most, to be checked in one step; 0:
  /// none.
  int64_t prompt_lookup_num_tokens = 0;
  /// With none said: proposes Speculation::kTokens where the weights are in panels and have no
  /// adapters beside them, so that a token's logits are the same bits alone and beside others,
  /// while that pays.
  bool speculates_where_it_pays = false;
  /// Whether steps are taken over buffers of a fixed size (decode_step.h), where can_step(),
  /// nothing is proposed and the model is whole; by itself on a card alone.
  std::optional<bool> fixed_buffers = std::nullopt;
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

  /// The model must be in eval mode (an adapter's dropout would act otherwise).
  Generator(Forward forward, std::vector<int64_t> stop_ids, const DecodingOptions& decoding = {})
      : forward_(std::move(forward)), stop_ids_(std::move(stop_ids)), decoding_(decoding) {}

  /// Prompts of different lengths go together; labels are not read. An answer does not depend on
  /// its neighbours but for the order of sums in matrix products. Throws UserError as check_prompts
  /// does.
  GenerationResult generate(const std::vector<Sample>& prompts, const SamplingOptions& options,
                            const OnToken& on_token = {}) const;

 private:
  Forward forward_;
  std::vector<int64_t> stop_ids_;
  DecodingOptions decoding_;
};

}  // namespace trestle
