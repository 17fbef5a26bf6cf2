// Tokens that are proposed and checked: the proposals are transformers', the answers those without.
#include <gtest/gtest.h>

#include "generate/prompt_lookup.h"
#include "generate/prompts.h"

namespace trestle {
namespace {

using testing::eval_model, testing::Golden, testing::greedy_prompt, testing::text_prompt;
using Ids = std::vector<int64_t>;

// What PromptLookupCandidateGenerator(num_output_tokens=3) of transformers 5 gives.
TEST(PromptLookup, ProposesWhatTransformersDoes) {
  const std::vector<std::pair<Ids, Ids>> cases = {
      {{1}, {}},
      {{1, 1}, {1}},
      {{1, 2}, {}},
      {{1, 2, 1}, {2, 1}},
      {{1, 2, 3, 1, 2}, {3, 1, 2}},
      {{5, 1, 2, 7, 8, 1, 2, 9, 1, 2}, {7, 8, 1}},
      {{3, 3, 3, 3}, {3, 3}},
      {{1, 2, 3, 4, 2, 3}, {4, 2, 3}},
      {{7, 1, 2, 7, 3, 7}, {1, 2, 7}},
      {{4, 5, 6, 4, 5, 7, 5}, {6, 4, 5}},
      {{1, 2, 3, 4, 5}, {}},
      {{2, 0, 3, 1, 0, 1, 0, 2, 3}, {1, 0, 1}},
      {{1, 0, 1, 3, 1, 1, 0, 0, 1, 1, 1}, {0, 0, 1}},
      {{2, 2, 1, 1, 1, 1, 3}, {}},
      {{0, 2, 3, 1, 1, 2, 0, 2, 2}, {3, 1, 1}},
      {{2, 0, 2, 2, 2}, {2}},
  };
  for (const auto& [ids, wanted] : cases) {
    const auto found = prompt_lookup(ids, 3);
    EXPECT_EQ(Ids(found.begin(), found.end()), wanted) << ::testing::PrintToString(ids);
    const auto first = prompt_lookup(ids, 1);
    EXPECT_EQ(Ids(first.begin(), first.end()), wanted.empty() ? Ids() : Ids{wanted[0]});
    EXPECT_TRUE(prompt_lookup(ids, 0).empty());
    EXPECT_TRUE(prompt_lookup(ids, -1).empty());
  }
  EXPECT_TRUE(prompt_lookup({}, 3).empty());
}

class WithPromptLookup : public ::testing::TestWithParam<const char*> {
 protected:
  const Golden golden_{GetParam()};
  const std::shared_ptr<Ministral3> model_ = eval_model(golden_);

  GenerationResult generate(const std::vector<Sample>& prompts, const SamplingOptions& options,
                            int64_t proposed, const Ids& stops = {},
                            const Generator::OnToken& on_token = {}) const {
    return Generator(*model_, stops, {.prompt_lookup_num_tokens = proposed})
        .generate(prompts, options, on_token);
  }
  // Of several lengths, one with pictures, and one that says everything twice.
  std::vector<Sample> prompts() const {
    std::vector<Sample> prompts = {greedy_prompt(golden_), text_prompt(1, 1), text_prompt(17, 2)};
    Sample twice = text_prompt(12, 3);
    twice.ids.insert(twice.ids.end(), twice.ids.begin(), twice.ids.end() - 2);
    prompts.push_back(twice);
    return prompts;
  }
};
INSTANTIATE_TEST_SUITE_P(Models, WithPromptLookup,
                         ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, WithPromptLookup, ::testing::ValuesIn(testing::kKin),
                         testing::test_name);

TEST_P(WithPromptLookup, GreedyTokensAreTheSame) {
  const auto wanted = testing::to_vector(golden_["greedy.tokens"]);
  const SamplingOptions options{.max_new_tokens = 40};
  const GenerationResult without = generate(prompts(), options, 0);
  EXPECT_EQ(without.stats.proposed_tokens, 0);
  EXPECT_EQ(without.stats.decode_steps, 39);
  for (const int64_t proposed : {1, 3, 10, 1000}) {
    const GenerationResult alone =
        generate({greedy_prompt(golden_)}, {.max_new_tokens = 16}, proposed);
    EXPECT_EQ(alone.sequences[0].ids, wanted);
    EXPECT_EQ(alone.stats.decode_tokens, 15);
    EXPECT_EQ(alone.stats.decode_steps + alone.stats.accepted_tokens, 15);
    const GenerationResult together = generate(prompts(), options, proposed);
    for (size_t i = 0; i < together.sequences.size(); ++i) {
      EXPECT_EQ(together.sequences[i].ids, without.sequences[i].ids) << proposed << ", " << i;
      EXPECT_EQ(together.sequences[i].finish_reason, "length");
    }
    EXPECT_EQ(together.stats.decode_tokens, without.stats.decode_tokens);
    EXPECT_GT(together.stats.accepted_tokens, 0);
    EXPECT_GT(together.stats.proposed_tokens, together.stats.accepted_tokens);
    EXPECT_LE(together.stats.decode_steps, 39);
  }
}

TEST_P(WithPromptLookup, DrawsAreTheSame) {
  // Near to greedy, so that proposals are drawn too.
  const SamplingOptions options{.max_new_tokens = 40, .temperature = 0.05, .top_k = 20, .seed = 4};
  const GenerationResult without = generate(prompts(), options, 0);
  const GenerationResult with = generate(prompts(), options, 5);
  for (size_t i = 0; i < with.sequences.size(); ++i) {
    EXPECT_EQ(with.sequences[i].ids, without.sequences[i].ids) << i;
  }
  EXPECT_GT(with.stats.proposed_tokens, 0);
}

TEST_P(WithPromptLookup, AnswersEndAtTheSameTokenWithTheSameLogprobs) {
  const SamplingOptions options{.max_new_tokens = 40, .logprobs = 3};
  const GenerationResult endless = generate(prompts(), options, 0);
  const Ids stops = {endless.sequences[0].ids[30], endless.sequences[2].ids[11]};
  std::vector<Ids> streamed(prompts().size());
  const GenerationResult without = generate(prompts(), options, 0, stops);
  const GenerationResult with =
      generate(prompts(), options, 6, stops,
               [&](size_t sequence, int64_t id) { streamed[sequence].push_back(id); });
  for (size_t i = 0; i < with.sequences.size(); ++i) {
    const Generation &got = with.sequences[i], &wanted = without.sequences[i];
    EXPECT_EQ(got.ids, wanted.ids) << i;
    EXPECT_EQ(streamed[i], wanted.ids);
    EXPECT_EQ(got.finish_reason, wanted.finish_reason);
    ASSERT_EQ(got.logprobs.size(), wanted.ids.size());
    for (size_t k = 0; k < wanted.ids.size(); ++k) {
      EXPECT_EQ(got.logprobs[k].chosen.id, wanted.ids[k]);
      EXPECT_NEAR(got.logprobs[k].chosen.logprob, wanted.logprobs[k].chosen.logprob, 1e-5);
      EXPECT_EQ(got.logprobs[k].top.size(), 3u);
    }
  }
  EXPECT_EQ(with.stats.decode_tokens, without.stats.decode_tokens);
}

// The context is 128; the last tokens come from fewer proposals than are asked for.
TEST(PromptLookup, FillsTheContextAndNoMore) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  Sample prompt = text_prompt(50, 4);
  prompt.ids.insert(prompt.ids.end(), prompt.ids.begin(), prompt.ids.end());
  const SamplingOptions options{.max_new_tokens = 28};
  const auto answer = [&](int64_t proposed) {
    return Generator(*model, {}, {.prompt_lookup_num_tokens = proposed})
        .generate({prompt}, options)
        .sequences[0]
        .ids;
  };
  EXPECT_EQ(answer(20), answer(0));
  EXPECT_EQ(answer(20).size(), 28u);
}

TEST(GenerationStats, AreTold) {
  GenerationStats stats{.prefill_tokens = 12,
                        .prefill_seconds = 2,
                        .prefill_chunks = 1,
                        .decode_tokens = 30,
                        .decode_seconds = 3,
                        .decode_steps = 30};
  EXPECT_EQ(describe(stats),
            "prefill 12 tokens in 2.00 s (6.0 tokens/s), decode 30 tokens in 3.00 s (10.0 "
            "tokens/s)");
  stats += GenerationStats{.prefill_tokens = 8,
                           .prefill_seconds = 2,
                           .prefill_chunks = 2,
                           .decode_tokens = 30,
                           .decode_seconds = 3,
                           .decode_steps = 10,
                           .proposed_tokens = 40,
                           .accepted_tokens = 20};
  EXPECT_EQ(describe(stats),
            "prefill 20 tokens in 4.00 s (5.0 tokens/s) in 3 chunks, decode 60 tokens in 6.00 s "
            "(10.0 tokens/s) in 40 steps, 20 of 40 proposed tokens accepted (0.50 a step)");
}

}  // namespace
}  // namespace trestle
