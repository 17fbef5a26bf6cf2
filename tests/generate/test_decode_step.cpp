// A token's forward over fixed buffers: the tokens of the ordinary decode by libtorch's operators
// and through the CUDA kernels by the emulator, no host read, and the same operators at every step.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "errors.h"
#include "generate/decode_step.h"
#include "generate/prefill.h"
#include "generate/prompts.h"
#include "host_reads.h"
#include "kernels/cuda_kernels.h"
#include "kernels/emulated.h"

namespace trestle {
namespace {

using testing::EmulatedKernels, testing::eval_model, testing::Golden, testing::greedy_prompt,
    testing::text_prompt;
using Ids = std::vector<int64_t>;

GenerationResult generate(const Ministral3& model, const std::vector<Sample>& prompts,
                          const SamplingOptions& options, bool fixed, const Ids& stops = {},
                          const Generator::OnToken& on_token = {}) {
  return Generator(model, stops, {.fixed_buffers = fixed}).generate(prompts, options, on_token);
}

void expect_same(const GenerationResult& got, const GenerationResult& wanted) {
  ASSERT_EQ(got.sequences.size(), wanted.sequences.size());
  for (size_t i = 0; i < wanted.sequences.size(); ++i) {
    EXPECT_EQ(got.sequences[i].ids, wanted.sequences[i].ids) << i;
    EXPECT_EQ(got.sequences[i].finish_reason, wanted.sequences[i].finish_reason) << i;
  }
  EXPECT_EQ(got.stats.decode_tokens, wanted.stats.decode_tokens);
  EXPECT_EQ(got.stats.decode_steps, wanted.stats.decode_steps);
}

class FixedBuffers : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<Sample> prompts() const {
    return {greedy_prompt(golden_), text_prompt(1, 1), text_prompt(40, 2)};
  }
  const Golden golden_{GetParam()};
  const std::shared_ptr<Ministral3> model_ = eval_model(golden_);
};
INSTANTIATE_TEST_SUITE_P(Models, FixedBuffers,
                         ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, FixedBuffers, ::testing::ValuesIn(testing::kKin), testing::test_name);

TEST_P(FixedBuffers, TokensAreThoseOfTheOrdinaryDecode) {
  EXPECT_EQ(
      generate(*model_, {greedy_prompt(golden_)}, {.max_new_tokens = 16}, true).sequences[0].ids,
      testing::to_vector(golden_["greedy.tokens"]));
  const SamplingOptions options{.max_new_tokens = 40};
  const GenerationResult wanted = generate(*model_, prompts(), options, false);
  expect_same(generate(*model_, prompts(), options, true), wanted);
}

// Stops are noticed a step late: what comes then is told to nobody.
TEST_P(FixedBuffers, AnswersEndWhereTheyDo) {
  const SamplingOptions options{.max_new_tokens = 24};
  const GenerationResult endless = generate(*model_, prompts(), options, false);
  const Ids stops = {endless.sequences[0].ids[7], endless.sequences[1].ids[0],
                     endless.sequences[2].ids[12]};
  std::vector<Ids> streamed(3);
  const GenerationResult got =
      generate(*model_, prompts(), options, true, stops,
               [&](size_t sequence, int64_t id) { streamed[sequence].push_back(id); });
  expect_same(got, generate(*model_, prompts(), options, false, stops));
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(streamed[i], got.sequences[i].ids);
}

TEST(DecodeStep, OneTokenNeedsNone) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  for (const int64_t tokens : {1, 2}) {
    const auto result = generate(*model, {greedy_prompt(golden)}, {.max_new_tokens = tokens}, true);
    EXPECT_EQ(std::ssize(result.sequences[0].ids), tokens);
    EXPECT_EQ(result.stats.decode_steps, tokens - 1);
  }
}

// The context is 128: the last step stores at its last place but one.
TEST(DecodeStep, FillsTheContext) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  const std::vector<Sample> prompts = {text_prompt(100, 4), text_prompt(3, 5)};
  const SamplingOptions options{.max_new_tokens = 28};
  expect_same(generate(*model, prompts, options, true), generate(*model, prompts, options, false));
}

class Steps {
 public:
  Steps(const Ministral3& model, const std::vector<Sample>& prompts, int64_t steps) {
    Ids ids, lengths;
    for (const Sample& prompt : prompts) {
      ids.insert(ids.end(), prompt.ids.begin(), prompt.ids.end());
      lengths.push_back(std::ssize(prompt.ids));
    }
    const ModelInput input = ModelInput::make(at::tensor(ids), lengths);
    cache_ = std::make_unique<KvCache>(model.config().text, std::ssize(prompts),
                                       input.packing.longest() + steps, model.build());
    prefill(model, input, 1 << 20, *cache_);
    step_ =
        std::make_unique<DecodeStep>(model, SamplingOptions{}, Ids(prompts.size(), 20), *cache_);
  }
  DecodeStep* operator->() { return step_.get(); }

 private:
  c10::InferenceMode inference_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<DecodeStep> step_;
};

TEST(DecodeStep, ReadsNothingForTheHostAndIsTheSameEveryTime) {
  for (const char* name : {"untied", "kin/medium_3_5"}) {
    const Golden golden(name);
    const auto model = eval_model(golden);
    Steps steps(*model, {text_prompt(9, 1), text_prompt(30, 2)}, 20);
    std::vector<std::vector<std::string>> calls;
    for (int i = 0; i < 20; ++i) {
      testing::SeenOperators seen;
      testing::see_operators(seen, [&] { steps->launch(); });
      EXPECT_EQ(seen.waits, testing::Waits()) << name << ", step " << i;
      calls.push_back(seen.calls);
      steps->take();
    }
    EXPECT_GT(calls[0].size(), 50u);
    for (const auto& each : calls) EXPECT_EQ(each, calls[0]) << name;
  }
}

TEST(DecodeStep, TwoAreUnderWayAtMost) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  Steps steps(*model, {text_prompt(9, 1)}, 4);
  EXPECT_THROW(steps->take(), c10::Error);
  steps->launch();
  steps->launch();
  EXPECT_THROW(steps->launch(), c10::Error);
  steps->take();
  steps->launch();
}

TEST(DecodeStep, LogitsThatAreNotFiniteAreTold) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  Steps steps(*model, {text_prompt(9, 1)}, 4);
  {
    const at::NoGradGuard no_grad;
    model->language_model().head_weight().fill_(NAN);
  }
  steps->launch();
  steps->launch();
  EXPECT_REFUSED(steps->take(), "logits are not finite");
}

// A build for cards has theirs and no emulator.
bool has_emulator() { return kernels_for(c10::Device(c10::kCUDA, 0)) == nullptr; }

// The same model, cache and sampler through the kernels of a card.
TEST(DecodeStep, TokensThroughTheKernelsAreTheSame) {
  if (!has_emulator()) GTEST_SKIP() << "by a card's kernels: TRESTLE_TEST_DEVICE";
  for (const char* name : {"text", "tied"}) {
    const Golden golden(name);
    const auto model = eval_model(golden);
    const std::vector<Sample> prompts = {greedy_prompt(golden), text_prompt(3, 1)};
    const SamplingOptions options{.max_new_tokens = 6};
    const GenerationResult wanted = generate(*model, prompts, options, false);
    const EmulatedKernels kernels;
    expect_same(generate(*model, prompts, options, true), wanted);
    const auto calls = EmulatedKernels::calls();
    const int64_t layers = model->config().text.num_layers;
    EXPECT_EQ(calls.at("decode_attention"), 5 * layers) << name;
    EXPECT_EQ(calls.at("sample"), 5);
  }
}

TEST(DecodeStep, DrawsOnTheDeviceAreThoseOfTheSeed) {
  if (!has_emulator()) GTEST_SKIP() << "by a card's kernels: TRESTLE_TEST_DEVICE";
  const Golden golden("text");
  const auto model = eval_model(golden);
  const std::vector<Sample> prompts = {text_prompt(9, 1), text_prompt(9, 1)};
  SamplingOptions options{.max_new_tokens = 6, .temperature = 1, .top_p = 0.9, .seed = 3};
  EXPECT_FALSE(can_step(*model, options));
  const EmulatedKernels kernels;
  EXPECT_TRUE(can_step(*model, options));
  const auto draw = [&] {
    const auto sequences = generate(*model, prompts, options, true).sequences;
    return std::vector<Ids>{sequences[0].ids, sequences[1].ids};
  };
  const auto first = draw();
  EXPECT_GT(EmulatedKernels::calls().at("sample"), 0);
  EXPECT_EQ(draw(), first);
  EXPECT_NE(first[0], first[1]);
  options.seed = 4;
  EXPECT_NE(draw(), first);
  options.logprobs = 2;
  EXPECT_FALSE(can_step(*model, options));
}

}  // namespace
}  // namespace trestle
