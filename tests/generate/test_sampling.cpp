// Sampling on hand-made logits: what each warper leaves, how often each token is drawn, and that
// seeds mean the same draws everywhere.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "errors.h"
#include "generate/sampling.h"

namespace trestle {
namespace {

// ln of 0.05, 0.4, 0.2, 0.05, 0.3.
const std::vector<float> kLogits = {std::log(0.05f), std::log(0.4f), std::log(0.2f),
                                    std::log(0.05f), std::log(0.3f)};

std::vector<double> probabilities(const std::vector<float>& logits,
                                  const SamplingOptions& options) {
  std::vector<double> p(logits.size(), 0);
  double total = 0;
  for (const Candidate& each : candidates(logits, options)) total += each.weight;
  for (const Candidate& each : candidates(logits, options)) {
    p[static_cast<size_t>(each.id)] = each.weight / total;
  }
  return p;
}

void expect_probabilities(const SamplingOptions& options, const std::vector<double>& wanted) {
  const std::vector<double> got = probabilities(kLogits, options);
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-7) << "id " << i;
}

// The figures of this test and the next are those of transformers 5.23's own warpers, too.
TEST(Sampling, OneWarperAtATime) {
  expect_probabilities({.temperature = 1}, {0.05, 0.4, 0.2, 0.05, 0.3});
  // Temperature 0.5 squares: 0.0025, 0.16, 0.04, 0.0025, 0.09 of 0.295.
  expect_probabilities({.temperature = 0.5},
                       {0.0025 / 0.295, 0.16 / 0.295, 0.04 / 0.295, 0.0025 / 0.295, 0.09 / 0.295});
  expect_probabilities({.temperature = 1, .top_k = 1}, {0, 1, 0, 0, 0});
  expect_probabilities({.temperature = 1, .top_k = 2}, {0, 4. / 7, 0, 0, 3. / 7});
  // Ids 0 and 3 tie as the fourth; both stay.
  expect_probabilities({.temperature = 1, .top_k = 4}, {0.05, 0.4, 0.2, 0.05, 0.3});
  expect_probabilities({.temperature = 1, .top_k = 99}, {0.05, 0.4, 0.2, 0.05, 0.3});
  expect_probabilities({.temperature = 1, .top_p = 0.39}, {0, 1, 0, 0, 0});
  expect_probabilities({.temperature = 1, .top_p = 0.41}, {0, 4. / 7, 0, 0, 3. / 7});
  expect_probabilities({.temperature = 1, .top_p = 0.89}, {0, 4. / 9, 2. / 9, 0, 3. / 9});
  // Of the tie the higher id comes first.
  expect_probabilities({.temperature = 1, .top_p = 0.91},
                       {0, 0.4 / 0.95, 0.2 / 0.95, 0.05 / 0.95, 0.3 / 0.95});
  expect_probabilities({.temperature = 1, .min_p = 0.49}, {0, 4. / 9, 2. / 9, 0, 3. / 9});
  expect_probabilities({.temperature = 1, .min_p = 0.51}, {0, 4. / 7, 0, 0, 3. / 7});
  expect_probabilities({.temperature = 1, .min_p = 1}, {0, 1, 0, 0, 0});
}

TEST(Sampling, WarpersActInOrder) {
  // Alone top_p=0.8 keeps three (0.4 + 0.3 < 0.8); after top_k=3 the first two have 7/9 < 0.8, so
  // three again; after top_k=2 and its renormalisation 4/7 < 0.8 keeps both, and top_p=0.55 only
  // the first.
  expect_probabilities({.temperature = 1, .top_k = 3, .top_p = 0.8},
                       {0, 4. / 9, 2. / 9, 0, 3. / 9});
  expect_probabilities({.temperature = 1, .top_k = 3, .top_p = 0.75}, {0, 4. / 7, 0, 0, 3. / 7});
  expect_probabilities({.temperature = 1, .top_p = 0.75}, {0, 4. / 9, 2. / 9, 0, 3. / 9});
  expect_probabilities({.temperature = 1, .top_k = 2, .top_p = 0.55}, {0, 1, 0, 0, 0});
  // Temperature 0.5 comes first: 0.16 of 0.295 reaches 0.54 alone, which 0.4 does not.
  expect_probabilities({.temperature = 0.5, .top_p = 0.54}, {0, 1, 0, 0, 0});
  expect_probabilities({.temperature = 1, .top_p = 0.54}, {0, 4. / 7, 0, 0, 3. / 7});
  // And min_p=0.5 sees 0.04 / 0.16.
  expect_probabilities({.temperature = 0.5, .min_p = 0.5}, {0, 0.64, 0, 0, 0.36});
}

// transformers' warpers, written with tensor operations on the whole row, against a row as long as
// a vocabulary.
at::Tensor reference(at::Tensor logits_V, const SamplingOptions& options) {
  const double dropped = -std::numeric_limits<double>::infinity();
  logits_V = logits_V.to(at::kDouble) / options.temperature;
  const at::Tensor kth = std::get<0>(logits_V.topk(options.top_k)).min();
  logits_V = logits_V.masked_fill(logits_V < kth, dropped);
  const auto [sorted, order] = logits_V.sort(/*stable=*/true, 0, /*descending=*/false);
  at::Tensor remove = sorted.softmax(0).cumsum(0) <= 1 - options.top_p;
  logits_V = logits_V.masked_fill(at::zeros_like(remove).scatter(0, order, remove), dropped);
  const at::Tensor p = logits_V.softmax(0);
  return logits_V.masked_fill(p < options.min_p * p.max(), dropped).softmax(0);
}

TEST(Sampling, EqualsTheReferenceOnLongRows) {
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = 0.7, .top_k = 40, .top_p = 0.9, .min_p = 0.02},
        SamplingOptions{.temperature = 1.5, .top_k = 4000, .top_p = 0.97, .min_p = 1e-6},
        SamplingOptions{.temperature = 1, .top_k = 5000, .top_p = 0.3}}) {
    const at::Tensor logits_V = at::randn({5000}) * 3;
    const float* begin = logits_V.const_data_ptr<float>();
    const std::vector<double> got = probabilities({begin, begin + 5000}, options);
    const at::Tensor wanted = reference(logits_V, options);
    const at::Tensor error = (at::tensor(got, at::kDouble) - wanted).abs().max();
    EXPECT_LT(error.item<double>(), 1e-12);
    EXPECT_LT(wanted.gt(0).sum().item<int64_t>(), 5000);
  }
}

TEST(Sampling, DrawsAsOftenAsProbable) {
  constexpr int64_t kDraws = 20000;
  const at::Tensor logits_BV = at::tensor(kLogits).unsqueeze(0);
  Sampler sampler({.temperature = 1, .seed = 7}, 1);
  std::vector<double> counts(kLogits.size(), 0);
  for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.next(logits_BV)[0])];
  double chi_square = 0;
  const std::vector<double> wanted = {0.05, 0.4, 0.2, 0.05, 0.3};
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double expected = wanted[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 18.5);  // 4 degrees of freedom: one seed in a thousand lies above
}

std::vector<int64_t> draws(uint64_t seed, size_t sequences, size_t sequence) {
  const at::Tensor logits_BV = at::zeros({static_cast<int64_t>(sequences), 1000});
  Sampler sampler({.temperature = 1, .seed = seed}, sequences);
  std::vector<int64_t> ids;
  for (int i = 0; i < 8; ++i) ids.push_back(sampler.next(logits_BV)[sequence]);
  return ids;
}

TEST(Sampling, SeedsFixTheDraws) {
  // By an independent implementation of the standard's seed_seq and mt19937_64: floor(1000 u).
  EXPECT_EQ(draws(0, 2, 0), (std::vector<int64_t>{509, 457, 944, 649, 828, 241, 319, 732}));
  EXPECT_EQ(draws(0, 2, 1), (std::vector<int64_t>{699, 912, 401, 395, 409, 111, 133, 559}));
  EXPECT_EQ(draws(0x1234567890abcdef, 1, 0),
            (std::vector<int64_t>{263, 450, 545, 972, 93, 720, 334, 416}));
  EXPECT_EQ(draws(5, 1, 0), draws(5, 3, 0));
  EXPECT_NE(draws(5, 1, 0), draws(6, 1, 0));
  EXPECT_NE(draws(5, 1, 0), draws(5 + (1ull << 32), 1, 0));
}

TEST(Sampling, GreedyTakesTheLikeliestAndTheLowestOfEquals) {
  Sampler sampler({}, 3);
  EXPECT_EQ(
      sampler.next(at::tensor({0.f, 2.f, 1.f, 2.f, -2.f, -5.f, -1.f, -1.f, 0.f, 0.f, 0.f, 0.f})
                       .view({3, 4})),
      (std::vector<int64_t>{1, 2, 0}));
}

TEST(Sampling, ImpossibleTokensAreNeverDrawn) {
  const float minus = -std::numeric_limits<float>::infinity();
  Sampler sampler({.temperature = 100}, 1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(sampler.next(at::tensor({minus, 1.f, minus}).unsqueeze(0))[0], 1);
  }
}

TEST(Sampling, LogitsThatAreNotFiniteAreRefused) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (const double temperature : {0.0, 1.0}) {
      Sampler sampler({.temperature = temperature}, 1);
      EXPECT_REFUSED(sampler.next(at::tensor({0.f, bad, 1.f}).unsqueeze(0)),
                     "the model's logits are not finite");
    }
  }
}

void expect_refused(const SamplingOptions& options, const std::string& flag) {
  const std::string error = testing::error_of([&] { validate(options); });
  EXPECT_TRUE(error.starts_with(flag)) << error;
}

TEST(Sampling, OptionsOutOfRangeNameTheirFlag) {
  expect_refused({.max_new_tokens = 0}, "--max-new-tokens 0");
  expect_refused({.temperature = -0.5}, "--temperature -0.5");
  expect_refused({.temperature = std::nan("")}, "--temperature nan");
  expect_refused({.temperature = std::numeric_limits<double>::infinity()}, "--temperature inf");
  expect_refused({.top_k = -1}, "--top-k -1");
  expect_refused({.top_p = 0}, "--top-p 0");
  expect_refused({.top_p = 1.5}, "--top-p 1.5");
  expect_refused({.top_p = std::nan("")}, "--top-p nan");
  expect_refused({.min_p = -0.1}, "--min-p -0.1");
  expect_refused({.min_p = 2}, "--min-p 2");
}

}  // namespace
}  // namespace trestle
