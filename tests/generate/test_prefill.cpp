// Prompts in chunks: the chunks themselves, and hidden states and answers of the whole prefill.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>

#include "generate/prefill.h"
#include "generate/prompts.h"

namespace trestle {
namespace {

using testing::eval_model, testing::Golden, testing::greedy_prompt, testing::text_prompt;

std::vector<std::string> told(const std::vector<int64_t>& lengths, int64_t most) {
  std::vector<std::string> told;
  for (const PrefillChunk& chunk : prefill_chunks(lengths, most)) {
    told.push_back(fmt::format("{}@{}:{}", chunk.first_sequence, chunk.first_token,
                               fmt::join(chunk.lengths, "+")));
  }
  return told;
}

TEST(PrefillChunks, AreWholeSequencesOrPartsOfOne) {
  using Told = std::vector<std::string>;
  EXPECT_EQ(told({3, 4, 2}, 9), (Told{"0@0:3+4+2"}));
  EXPECT_EQ(told({3, 4, 2}, 8), (Told{"0@0:3+4", "2@7:2"}));
  EXPECT_EQ(told({3, 4, 2}, 3), (Told{"0@0:3", "1@3:3", "1@6:1", "2@7:2"}));
  EXPECT_EQ(told({1, 1, 5, 1, 1, 4}, 4), (Told{"0@0:1+1", "2@2:4", "2@6:1", "3@7:1+1", "5@9:4"}));
  EXPECT_EQ(told({8}, 4), (Told{"0@0:4", "0@4:4"}));
  EXPECT_EQ(told({2, 1}, 1), (Told{"0@0:1", "0@1:1", "1@2:1"}));
}

class InChunks : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, InChunks, ::testing::Values("tied", "untied", "mistral", "text"));
INSTANTIATE_TEST_SUITE_P(Kin, InChunks, ::testing::ValuesIn(testing::kKin), testing::test_name);

TEST_P(InChunks, LogitsAndAnswersAreThoseOfTheWhole) {
  const Golden golden(GetParam());
  const auto model = eval_model(golden);
  const at::NoGradGuard no_grad;
  // 100 is more than a block of queries.
  const std::vector<Sample> prompts = {text_prompt(9, 1), greedy_prompt(golden),
                                       text_prompt(100, 2), greedy_prompt(golden),
                                       text_prompt(1, 3)};
  std::vector<int64_t> ids, lengths;
  std::vector<at::Tensor> images;
  for (const Sample& prompt : prompts) {
    ids.insert(ids.end(), prompt.ids.begin(), prompt.ids.end());
    lengths.push_back(std::ssize(prompt.ids));
    images.insert(images.end(), prompt.images_CHW.begin(), prompt.images_CHW.end());
  }
  const ModelInput input = ModelInput::make(at::tensor(ids), lengths, images);
  const auto logits = [&](int64_t chunk_size) {
    KvCache cache(model->config().text, input.packing.sequences(), 120, model->build());
    const at::Tensor last = prefill(*model, input, chunk_size, cache);
    EXPECT_EQ(cache.lengths(), lengths) << chunk_size;
    return model->language_model().head(last);
  };
  const SamplingOptions options{.max_new_tokens = 20};
  const at::Tensor whole = logits(1 << 20);
  const GenerationResult wanted = Generator(*model, {}).generate(prompts, options);
  EXPECT_EQ(wanted.stats.prefill_chunks, 1);
  for (const int64_t chunk_size : {1, 7, 70, 110}) {
    const at::Tensor got = logits(chunk_size);
    EXPECT_LE((got - whole).norm().item<double>(), 1e-5 * whole.norm().item<double>())
        << chunk_size;
    EXPECT_LE((got - whole).abs().max().item<double>(), 1e-5) << chunk_size;
    const GenerationResult result =
        Generator(*model, {}, {.prefill_chunk_size = chunk_size}).generate(prompts, options);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(result.sequences[i].ids, wanted.sequences[i].ids) << chunk_size << ", " << i;
    }
    EXPECT_EQ(result.stats.prefill_tokens, std::ssize(ids));
    EXPECT_EQ(result.stats.prefill_chunks, std::ssize(prefill_chunks(lengths, chunk_size)));
  }
}

TEST(KvCache, IsCutToAtMostWhatItHolds) {
  const Golden golden("text");
  const auto model = eval_model(golden);
  KvCache cache(model->config().text, 2, 8, model->build());
  cache.advance({3, 5});
  cache.truncate({2, 5});
  EXPECT_EQ(cache.lengths(), (std::vector<int64_t>{2, 5}));
  EXPECT_THROW(cache.truncate({3, 5}), c10::Error);
  EXPECT_THROW(cache.truncate({2, -1}), c10::Error);
  EXPECT_THROW(cache.truncate({2}), c10::Error);
  const auto& text = model->config().text;
  const at::Tensor k = at::ones({5, text.num_query_groups, text.head_dim});
  EXPECT_THROW(cache.append(0, k, k, Packing({1, 4})), c10::Error);  // 9 of 8
  cache.append(0, k, k, Packing({2, 3}));
  EXPECT_EQ(cache.keys(0)[0][0].sum(1).ne(0).sum().item<int64_t>(), 2);
  EXPECT_EQ(cache.keys(0)[0][0][4].sum().item<double>(), 0);
  EXPECT_GT(cache.keys(0)[1][0][7].sum().item<double>(), 0);
}

// Of equal size wherever they stand, to the bit what each gives alone.
TEST(BlockAttention, TakesImagesOfOneSizeTogether) {
  at::manual_seed(1);
  const std::vector<int64_t> lengths = {6, 4, 6, 4, 4, 9, 6};
  const Packing packing(lengths);
  const at::Tensor q = at::randn({packing.tokens(), 2, 8}), k = at::randn_like(q),
                   v = at::randn_like(q);
  const at::Tensor together = block_attention(q, k, v, packing);
  int64_t start = 0;
  for (const int64_t length : lengths) {
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, start, length); };
    const at::Tensor scores = at::einsum("pnh,knh->npk", {rows(q), rows(k)}) / std::sqrt(8.0);
    const at::Tensor wanted = at::einsum("npk,knh->pnh", {scores.softmax(-1), rows(v)}).flatten(1);
    EXPECT_LE((rows(together) - wanted).abs().max().item<double>(), 1e-6);
    EXPECT_TRUE(
        at::equal(rows(together), block_attention(rows(q), rows(k), rows(v), Packing({length}))));
    start += length;
  }
}

}  // namespace
}  // namespace trestle
