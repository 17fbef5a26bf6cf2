// Models whose weights are in panels answer as those that have the panels' values as they are.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "bridge/load_quantized.h"
#include "generate/prompts.h"

namespace trestle {
namespace {

using testing::Golden, testing::greedy_prompt, testing::relative_error, testing::text_prompt;

std::shared_ptr<Ministral3> model_in(const Golden& golden, at::ScalarType dtype,
                                     std::optional<PanelForm> form) {
  Build build{dtype};
  build.panels = form;
  auto model = load_model(OpenCheckpoint(golden.directory), build);
  model->eval();
  return model;
}

// In fp32, with the values that the panels of `of` say.
std::shared_ptr<Ministral3> with_values(const Golden& golden, const Ministral3& of) {
  auto model = model_in(golden, at::kFloat, {});
  const at::NoGradGuard no_grad;
  const auto parameters = model->named_parameters();
  for (const auto& [name, linear] : projections(of)) {
    parameters[name].copy_(linear->dense_weight());
  }
  for (const auto& entry : of.named_parameters()) {
    if (!entry.value().is_meta()) parameters[entry.key()].copy_(entry.value());
  }
  return model;
}

at::Tensor logits_of(const Ministral3& model, const Golden& golden) {
  const c10::InferenceMode inference;
  return model.logits(golden.input()).to(at::kFloat);
}

class InPanels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, InPanels, ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, InPanels, ::testing::ValuesIn(testing::kKin), testing::test_name);

TEST_P(InPanels, LogitsAreThoseOfTheValues) {
  const Golden golden(GetParam());
  for (const PanelForm form : {PanelForm::kBf16, PanelForm::kInt8, PanelForm::kInt4}) {
    const auto model = model_in(golden, at::kFloat, form);
    EXPECT_FALSE(projections(*model).empty());
    for (const auto& [name, linear] : projections(*model)) {
      const bool sees = !name.starts_with("language_model.");
      EXPECT_EQ(linear->panels()->form(), sees ? PanelForm::kBf16 : form) << name;
    }
    const at::Tensor wanted = logits_of(*with_values(golden, *model), golden);
    // Inputs are rounded to bf16, or to codes of 127 steps for each 32.
    const double most = form == PanelForm::kBf16 ? 0.02 : 0.05;
    EXPECT_LE(relative_error(logits_of(*model, golden), wanted), most);
  }
}

// A step of decoding takes other loops than a prompt does.
TEST_P(InPanels, AnswersAreThoseOfTheWeightsInBfloat16) {
  const Golden golden(GetParam());
  const std::vector<Sample> prompts = {greedy_prompt(golden), text_prompt(40, 2)};
  const SamplingOptions options{.max_new_tokens = 12, .logprobs = 1};
  const auto plain = model_in(golden, at::kBFloat16, {});
  const auto panels = model_in(golden, at::kBFloat16, PanelForm::kBf16);
  const GenerationResult wanted = Generator(*plain, {}).generate(prompts, options);
  const GenerationResult given = Generator(*panels, {}).generate(prompts, options);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Generation &a = wanted.sequences[i], &b = given.sequences[i];
    // Up to the first near tie that falls otherwise.
    for (size_t k = 0; k < a.ids.size(); ++k) {
      EXPECT_NEAR(b.logprobs[k].chosen.logprob, a.logprobs[k].chosen.logprob, 0.1) << k;
      if (a.ids[k] != b.ids[k]) break;
    }
  }
}

// A step of several tokens gives the bits of several steps.
TEST_P(InPanels, ProposalsChangeNoBitOfAnAnswer) {
  const Golden golden(GetParam());
  Sample twice = text_prompt(20, 3);
  twice.ids.insert(twice.ids.end(), twice.ids.begin(), twice.ids.end() - 2);
  const std::vector<Sample> prompts = {greedy_prompt(golden), twice};
  const SamplingOptions options{.max_new_tokens = 30, .logprobs = 2};
  for (const PanelForm form : {PanelForm::kBf16, PanelForm::kInt8, PanelForm::kInt4}) {
    const auto model = model_in(golden, at::kBFloat16, form);
    const auto answers = [&](const DecodingOptions& decoding) {
      return Generator(*model, {}, decoding).generate(prompts, options);
    };
    const GenerationResult alone = answers({});
    EXPECT_EQ(alone.stats.proposed_tokens, 0);
    const GenerationResult beside = answers({.prompt_lookup_num_tokens = 3});
    EXPECT_GT(beside.stats.proposed_tokens, 0);
    const GenerationResult settled = answers({.speculates_where_it_pays = true});
    EXPECT_GT(settled.stats.proposed_tokens, 0);
    for (const GenerationResult* each : {&beside, &settled}) {
      for (size_t i = 0; i < prompts.size(); ++i) {
        const Generation &a = alone.sequences[i], &b = each->sequences[i];
        EXPECT_EQ(b.ids, a.ids);
        for (size_t k = 0; k < a.ids.size(); ++k) {
          EXPECT_EQ(b.logprobs[k].chosen.logprob, a.logprobs[k].chosen.logprob) << i << ", " << k;
        }
      }
    }
  }
}

// Products of adapters are libtorch's, which may sum in another order for more rows.
TEST(InPanels, NothingIsProposedByItselfElsewhere) {
  const Golden golden("text");
  Sample twice = text_prompt(20, 3);
  twice.ids.insert(twice.ids.end(), twice.ids.begin(), twice.ids.end() - 2);
  const auto proposed = [&](const Ministral3& model, size_t count) {
    return Generator(model, {}, {.speculates_where_it_pays = true})
        .generate(std::vector<Sample>(count, twice), {.max_new_tokens = 20})
        .stats.proposed_tokens;
  };
  EXPECT_EQ(proposed(*model_in(golden, at::kBFloat16, {}), 1), 0);
  const auto model = model_in(golden, at::kBFloat16, PanelForm::kInt8);
  EXPECT_GT(proposed(*model, 2), 0);
  EXPECT_EQ(proposed(*model, 3), 0);  // more rows than a panel's product takes at once
  Linear& projection = *model->language_model().layer(0).mlp->linear_fc2;
  projection.attach(std::make_shared<Adapter>(
      projection.weight.size(1), projection.weight.size(0), FusedLayout::plain(),
      AdapterSpec{.pairs = {{"", 4, 8}}}, at::TensorOptions(at::kBFloat16)));
  const at::NoGradGuard no_grad;
  for (auto& parameter : projection.adapter()->parameters()) parameter.fill_(0.01);
  EXPECT_EQ(proposed(*model, 1), 0);
}

TEST(InPanels, ValuesThatAreNoNumbersHaveNoCodes) {
  PanelWeight weight(16, 32, PanelForm::kInt8);
  class Damaged : public TensorSource {
   public:
    const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
    at::Tensor read(const std::string&) const override {
      at::Tensor values = at::ones({16, 32});
      values[3][4] = NAN;
      return values;
    }
    void read_rows(const std::string& name, RowRange range, std::byte* out) const override {
      const at::Tensor rows = read(name).narrow(0, range.first, range.count).contiguous();
      std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
    }

   private:
    std::map<std::string, TensorInfo> tensors_ = {{"w", {at::kFloat, {16, 32}}}};
  } source;
  EXPECT_THROW(pack(source, "w", weight), UserError);
  PanelWeight plain(16, 32, PanelForm::kBf16);
  EXPECT_NO_THROW(pack(source, "w", plain));
}

}  // namespace
}  // namespace trestle
