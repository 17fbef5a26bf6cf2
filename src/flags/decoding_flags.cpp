#include "flags/decoding_flags.h"

#include "flags/number_flag.h"
#include "recipes/config.h"

namespace trestle {

namespace {

// Of a proposal; more would be thrown away as good as always.
constexpr int64_t kMostProposed = 1024;

}  // namespace

void add_decoding_flags(Command command, DecodingOptions& decoding) {
  add_number(command, "--prefill-chunk-size,--prefill_chunk_size", decoding.prefill_chunk_size,
             between(1, kMostTokens),
             "tokens of prompts that go through the model at a time: memory against speed, with "
             "the same answers but for near ties (order of sums, above all in bf16)");
  add_number(command, "--prompt-lookup-num-tokens,--prompt_lookup_num_tokens",
             decoding.prompt_lookup_num_tokens, between(0, kMostProposed),
             "tokens to copy from where the last two stood before, checked in one step of the "
             "model: faster where an answer repeats its prompt, with the same answers but for "
             "near ties (order of sums, above all in bf16); 0: none");
}

}  // namespace trestle
