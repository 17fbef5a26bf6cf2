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
  decoding.speculates_where_it_pays = true;
  const Range range = between(0, kMostProposed);
  Flag tokens = add_checked(
      command, "--prompt-lookup-num-tokens,--prompt_lookup_num_tokens",
      "tokens to copy from where the last two stood before, checked in one step of the model: "
      "faster where an answer repeats its prompt, with the same answers but for near ties (order "
      "of sums, above all in bf16); 0: none. By itself 3 on a CPU in bf16, int8 or int4, of one or "
      "two answers at once without an adapter: then answers are the same to the bit, and it goes "
      "on "
      "while it is faster",
      range.text(), true, [&decoding, range](const std::string& name, const std::string& text) {
        const std::string problem = number_problem(text, decoding.prompt_lookup_num_tokens);
        if (!problem.empty()) user_error("{} {}; {}", name, problem, range.text());
        if (!range.holds(decoding.prompt_lookup_num_tokens)) {
          user_error("{} {}: {}", name, text, range.text());
        }
        decoding.speculates_where_it_pays = false;
      });
  Flag none = command.add_switch(
      "--no-speculation,--no_speculation",
      [&decoding](bool on) { decoding.speculates_where_it_pays = !on; },
      "propose no token where that would be done by itself; answers do not change");
  none.excludes(tokens);
}

}  // namespace trestle
