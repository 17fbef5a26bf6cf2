// Greedy answers against transformers' and against our own forward without a cache; batches; where
// answers end.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "errors.h"
#include "generate/generator.h"
#include "generate/prompts.h"

namespace trestle {
namespace {

using testing::eval_model, testing::Golden, testing::greedy_prompt, testing::text_prompt,
    testing::to_vector;

std::vector<int64_t> answer(const Ministral3& model, const Sample& prompt,
                            const SamplingOptions& options) {
  return Generator(model, {}).generate({prompt}, options).sequences.at(0).ids;
}

class GreedyTokens : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, GreedyTokens,
                         ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, GreedyTokens, ::testing::ValuesIn(testing::kKin), testing::test_name);

TEST_P(GreedyTokens, EqualTransformers) {
  const Golden golden(GetParam());
  const auto wanted = to_vector(golden["greedy.tokens"]);
  ASSERT_EQ(wanted.size(), 16u);
  const auto model = eval_model(golden);
  const GenerationResult result =
      Generator(*model, {}).generate({greedy_prompt(golden)}, {.max_new_tokens = 16});
  EXPECT_EQ(result.sequences.at(0).ids, wanted);
  EXPECT_EQ(result.sequences.at(0).finish_reason, "length");
  EXPECT_EQ(result.sequences.at(0).prompt_tokens, golden["greedy.input_ids"].numel());
  EXPECT_EQ(result.stats.prefill_tokens, golden["greedy.input_ids"].numel());
  EXPECT_EQ(result.stats.decode_tokens, 15);
  EXPECT_GT(result.stats.prefill_seconds, 0);
  EXPECT_GT(result.stats.decode_seconds, 0);
}

class LogprobsOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kin, LogprobsOf, ::testing::ValuesIn(testing::kKin), testing::test_name);

// Against transformers' log_softmax.
TEST_P(LogprobsOf, EveryTokenAndTheLikeliest) {
  const Golden golden(GetParam());
  const auto model = eval_model(golden);
  const Generation answer =
      Generator(*model, {})
          .generate({greedy_prompt(golden)}, {.max_new_tokens = 16, .logprobs = 20})
          .sequences.at(0);
  ASSERT_EQ(answer.logprobs.size(), 16u);
  const auto ids = to_vector(golden["greedy.top_ids"]);
  for (size_t i = 0; i < 16; ++i) {
    const Logprobs& got = answer.logprobs[i];
    const auto row = static_cast<int64_t>(i);
    EXPECT_EQ(got.chosen.id, answer.ids[i]);
    EXPECT_NEAR(got.chosen.logprob, golden["greedy.logprobs"][row].item<double>(), 1e-4);
    ASSERT_EQ(got.top.size(), 20u);
    for (size_t k = 0; k < 20; ++k) {
      const double wanted =
          golden["greedy.top_logprobs"][row][static_cast<int64_t>(k)].item<double>();
      EXPECT_NEAR(got.top[k].logprob, wanted, 1e-4);
      // Neighbours that lie within the tolerance may change places.
      const bool apart = k > 0 && got.top[k - 1].logprob - got.top[k].logprob > 1e-3 && k < 19 &&
                         got.top[k].logprob - got.top[k + 1].logprob > 1e-3;
      if (apart) {
        EXPECT_EQ(got.top[k].id, ids[20 * i + k]) << i << " " << k;
      }
    }
  }
}

TEST(Logprobs, AreOfTheLogitsBeforeWhatDraws) {
  const Golden golden("kin/shieldstral");
  const auto model = eval_model(golden);
  const auto first = [&](const SamplingOptions& options) {
    return Generator(*model, {})
        .generate({greedy_prompt(golden), text_prompt(9, 1)}, options)
        .sequences.at(0)
        .logprobs.at(0);
  };
  const Logprobs greedy = first({.max_new_tokens = 1, .logprobs = 5});
  const Logprobs drawn = first({.max_new_tokens = 1,
                                .temperature = 9,
                                .top_k = 150,
                                .top_p = 0.99,
                                .seed = 3,
                                .logprobs = 5});
  for (size_t k = 0; k < 5; ++k) {
    EXPECT_EQ(drawn.top[k].id, greedy.top[k].id);
    EXPECT_NEAR(drawn.top[k].logprob, greedy.top[k].logprob, 1e-6);
  }
  EXPECT_NE(drawn.chosen.id, greedy.chosen.id);  // temperature 9 is nearly even
  EXPECT_LT(drawn.chosen.logprob, greedy.chosen.logprob);
  EXPECT_TRUE(Generator(*model, {})
                  .generate({text_prompt(9, 1)}, {.max_new_tokens = 1})
                  .sequences.at(0)
                  .logprobs.empty());
  EXPECT_REFUSED(first({.logprobs = 21}), "--logprobs 21", "20");
}

TEST(Logprobs, OfEqualTokensTheLowerIdComesFirst) {
  const at::Tensor logits = at::tensor({0.f, 1.f, 0.f, 1.f}).view({1, 4});
  const Logprobs got = logprobs_of(logits, {2}, 4).at(0);
  const double e = std::exp(1.0), total = 2 + 2 * e;
  EXPECT_NEAR(got.chosen.logprob, std::log(1 / total), 1e-12);
  std::vector<int64_t> ids;
  for (const TokenLogprob& each : got.top) ids.push_back(each.id);
  EXPECT_EQ(ids, (std::vector<int64_t>{1, 3, 0, 2}));
  EXPECT_NEAR(got.top[0].logprob, std::log(e / total), 1e-12);
}

// Each token from a forward over everything before it.
std::vector<int64_t> answer_without_cache(const Ministral3& model, const Sample& prompt,
                                          int64_t tokens) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> ids = prompt.ids;
  for (int64_t i = 0; i < tokens; ++i) {
    const ModelInput input =
        ModelInput::make(at::tensor(ids), {static_cast<int64_t>(ids.size())}, prompt.images_CHW);
    ids.push_back(model.logits(input)[-1].argmax().item<int64_t>());
  }
  return {ids.end() - tokens, ids.end()};
}

TEST_P(GreedyTokens, EqualThoseWithoutCache) {
  const Golden golden(GetParam());
  const auto model = eval_model(golden);
  std::vector<Sample> prompts = {greedy_prompt(golden)};
  for (const int64_t length : {1, 2, 17, 70}) prompts.push_back(text_prompt(length, length));
  for (const Sample& prompt : prompts) {
    EXPECT_EQ(answer(*model, prompt, {.max_new_tokens = 40}),
              answer_without_cache(*model, prompt, 40))
        << prompt.ids.size() << " ids";
  }
}

TEST_P(GreedyTokens, OfABatchEqualThoseAlone) {
  const Golden golden(GetParam());
  const auto model = eval_model(golden);
  std::vector<Sample> prompts = {text_prompt(9, 1), greedy_prompt(golden), text_prompt(1, 2),
                                 greedy_prompt(golden), text_prompt(60, 3)};
  if (golden.has("greedy.pixel_values")) {  // the same ids about another picture
    for (at::Tensor& image : prompts[3].images_CHW) image = image.flip({2}).contiguous();
  }
  const SamplingOptions options{.max_new_tokens = 24};
  const auto together = Generator(*model, {}).generate(prompts, options).sequences;
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(together[i].ids, answer(*model, prompts[i], options)) << "prompt " << i;
    EXPECT_EQ(together[i].prompt_tokens, static_cast<int64_t>(prompts[i].ids.size()));
  }
}

TEST(Generator, SampledTextsOfABatchDoNotDependOnEachOther) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  const std::vector<Sample> prompts = {text_prompt(9, 1), text_prompt(9, 1), text_prompt(20, 2)};
  const SamplingOptions options{.max_new_tokens = 12, .temperature = 1, .seed = 11};
  const auto three = Generator(*model, {}).generate(prompts, options).sequences;
  const auto two = Generator(*model, {}).generate({prompts[0], prompts[1]}, options).sequences;
  EXPECT_EQ(three[0].ids, two[0].ids);
  EXPECT_EQ(three[1].ids, two[1].ids);
  EXPECT_NE(three[0].ids, three[1].ids);  // the same prompt, drawn twice
  SamplingOptions other = options;
  other.seed = 12;
  EXPECT_NE(answer(*model, prompts[0], other), three[0].ids);
}

TEST(Generator, EachAnswerEndsAtItsStopToken) {
  const Golden golden("tied");
  const auto model = eval_model(golden);
  const std::vector<Sample> prompts = {text_prompt(9, 1), greedy_prompt(golden),
                                       text_prompt(30, 3)};
  const SamplingOptions options{.max_new_tokens = 16};
  const auto endless = Generator(*model, {}).generate(prompts, options).sequences;
  // Stops that the second answer meets at its sixth token, wherever the others meet them.
  const std::vector<int64_t> stops = {endless[1].ids[5], endless[0].ids[9]};
  std::map<size_t, std::vector<int64_t>> streamed;
  const GenerationResult result =
      Generator(*model, stops).generate(prompts, options, [&](size_t sequence, int64_t id) {
        streamed[sequence].push_back(id);
      });
  int64_t decoded = 0;
  size_t stopped = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto& all = endless[i].ids;
    auto end = std::find_first_of(all.begin(), all.end(), stops.begin(), stops.end());
    const bool stop = end != all.end();
    stopped += stop;
    if (stop) ++end;
    const Generation& got = result.sequences[i];
    EXPECT_EQ(got.ids, std::vector<int64_t>(all.begin(), end)) << i;
    EXPECT_EQ(got.finish_reason, stop ? "stop" : "length") << i;
    EXPECT_EQ(streamed[i], got.ids);
    decoded += static_cast<int64_t>(got.ids.size()) - 1;
  }
  EXPECT_GE(stopped, 2u);
  EXPECT_EQ(result.stats.decode_tokens, decoded);
}

TEST(Generator, OneTokenNeedsNoDecodeStep) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  const auto result =
      Generator(*model, {}).generate({greedy_prompt(golden)}, {.max_new_tokens = 1});
  EXPECT_EQ(result.sequences[0].ids, to_vector(golden["greedy.tokens"].narrow(0, 0, 1)));
  EXPECT_EQ(result.stats.decode_tokens, 0);
  EXPECT_TRUE(Generator(*model, {}).generate({}, {}).sequences.empty());
}

// The context is 128: its last position is used, and one more is refused.
TEST(Generator, FillsTheContextAndNoMore) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  const Sample prompt = text_prompt(100, 4);
  EXPECT_EQ(answer(*model, prompt, {.max_new_tokens = 28}),
            answer_without_cache(*model, prompt, 28));
  const auto refusal = [&](int64_t length, int64_t tokens) {
    return testing::error_of(
        [&] { answer(*model, text_prompt(length, 4), {.max_new_tokens = tokens}); });
  };
  for (const int64_t tokens : {int64_t{29}, INT64_MAX}) {
    EXPECT_EQ(refusal(100, tokens),
              fmt::format("a prompt of 100 tokens and --max-new-tokens {} do not fit the model's "
                          "context of 128; give --max-new-tokens 28 or less",
                          tokens));
  }
  EXPECT_EQ(refusal(128, 1),
            "the prompt has 128 tokens, but the model's context is 128 with the answer in it; "
            "shorten the prompt or shrink its images");
}

TEST(Generator, RefusesPromptsOfAnotherModel) {
  const Golden golden("tied"), text("text");
  const auto model = eval_model(golden);
  const SamplingOptions options{.max_new_tokens = 4};
  Sample prompt = greedy_prompt(golden);
  EXPECT_REFUSED(answer(*eval_model(text), prompt, options), "no vision tower");
  EXPECT_REFUSED(answer(*model, {{5, 160}, {}, {}}, options), "token id 160", "ids 0 to 159");
  EXPECT_REFUSED(answer(*model, {{5, -1}, {}, {}}, options), "token id -1", "ids 0 to 159");
  EXPECT_REFUSED(answer(*model, {{}, {}, {}}, options), "no tokens");
  prompt.images_CHW[0] = at::zeros({3, 30, 30});
  EXPECT_REFUSED(answer(*model, prompt, options), "30 x 30 pixels", "the model's patches");
  prompt.images_CHW[0] = at::zeros({3, 28, 28});
  EXPECT_REFUSED(answer(*model, prompt, options), "image tokens");
  EXPECT_REFUSED(answer(*model, greedy_prompt(golden), {.max_new_tokens = 4, .temperature = -1}),
                 "--temperature -1");
}

TEST(Generator, Bfloat16AnswersAsItsOwnForwardDoes) {
  const Golden golden("untied");
  const auto model = eval_model(golden, at::kBFloat16);
  const Sample prompt = greedy_prompt(golden);
  EXPECT_EQ(answer(*model, prompt, {.max_new_tokens = 16}),
            answer_without_cache(*model, prompt, 16));
}

TEST(Generator, TakesEveryIdThatTheModelHas) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  const int64_t vocabulary = model->config().text.vocab_size;
  EXPECT_EQ(answer(*model, {{0, vocabulary - 1}, {}, {}}, {.max_new_tokens = 1}).size(), 1u);
  for (const int64_t id : {int64_t{-1}, vocabulary}) {
    EXPECT_REFUSED(answer(*model, {{0, id}, {}, {}}, {.max_new_tokens = 1}),
                   fmt::format("token id {},", id));
  }
}

TEST(Generator, RefusesAModelInTraining) {
  const Golden golden("text");
  const auto model = golden.model();
  EXPECT_THROW(answer(*model, greedy_prompt(golden), {.max_new_tokens = 1}), c10::Error);
}

// users' pain point 17: pictures that leak into each other.
TEST(ImageFeatures, AreTheSameAloneAndAmongOthers) {
  const Golden golden("untied");
  const auto model = eval_model(golden);
  const at::NoGradGuard no_grad;
  const int64_t side =
      model->config().vision->patch_size * model->config().projector.spatial_merge_size;
  std::vector<at::Tensor> images = golden.images();
  for (const auto& [rows, cols] : {std::pair{1, 1}, {6, 2}, {3, 5}, {3, 5}}) {
    images.push_back(at::randn({3, rows * side, cols * side}));
  }
  const at::Tensor together = model->image_features(images);
  int64_t start = 0;
  for (size_t i = 0; i < images.size(); ++i) {
    const at::Tensor alone = model->image_features({images[i]});
    const at::Tensor among = together.narrow(0, start, alone.size(0));
    EXPECT_TRUE(at::equal(among, alone)) << "image " << i;
    start += alone.size(0);
  }
  EXPECT_EQ(start, together.size(0));
}

}  // namespace
}  // namespace trestle
