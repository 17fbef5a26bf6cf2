// The sampler's CUDA kernel, run on the CPU: greedy, which tokens the options leave, and how often
// each is drawn.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "cuda/sample.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

struct Options {
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1, min_p = 0;
  uint64_t seed = 1, offset = 0;
};

at::Tensor draw(const at::Tensor& logits_BV, const Options& options) {
  const int64_t rows = logits_BV.size(0);
  at::Tensor drawn = fenced_empty({rows}, at::kLong);
  EXPECT_EQ(cuda::sample({.type = type_of(logits_BV),
                          .rows = rows,
                          .columns = logits_BV.size(1),
                          .logits = logits_BV.const_data_ptr(),
                          .temperature = options.temperature,
                          .top_k = options.top_k,
                          .top_p = options.top_p,
                          .min_p = options.min_p,
                          .seed = options.seed,
                          .offset = &options.offset,
                          .ids = drawn.mutable_data_ptr<int64_t>()},
                         nullptr),
            0);
  return drawn;
}

std::vector<int64_t> list_of(const at::Tensor& ids) {
  return {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()};
}

std::vector<int64_t> by_kernel(const at::Tensor& logits_BV, const Options& options) {
  return list_of(in_every_order([&] { return std::vector{draw(logits_BV, options)}; })[0]);
}

// The warpers of generate/sampling.h in fp64, by sorting: ids with their weights.
std::map<int64_t, double> candidates(const at::Tensor& logits_V, const Options& options) {
  const at::Tensor wide = exact(logits_V);
  std::vector<std::pair<double, int64_t>> sorted;
  const auto* logits = wide.const_data_ptr<double>();
  for (int64_t id = 0; id < wide.numel(); ++id) sorted.emplace_back(logits[id], id);
  std::ranges::sort(sorted, std::greater<>());  // of equal logits the higher id first
  const double best = sorted.front().first;
  const auto weight = [&](double logit) { return std::exp((logit - best) / options.temperature); };
  if (options.top_k > 0 && options.top_k < std::ssize(sorted)) {
    const double least = sorted[static_cast<size_t>(options.top_k) - 1].first;
    std::erase_if(sorted, [&](const auto& each) { return each.first < least; });
  }
  double total = 0, mass = 0;
  for (const auto& [logit, id] : sorted) total += weight(logit);
  std::map<int64_t, double> kept;
  for (const auto& [logit, id] : sorted) {
    if (options.top_p < 1 && mass >= options.top_p * total) break;
    mass += weight(logit);
    if (weight(logit) >= options.min_p) kept[id] = weight(logit);
  }
  return kept;
}

// Small rows, so that thousands may be drawn; whole 64ths, so that many tie.
at::Tensor small_rows(int64_t rows, int64_t columns, at::ScalarType type) {
  at::manual_seed(columns);
  const at::Tensor row = (at::randn({columns}).mul_(64)).round().div_(64).to(type);
  return fenced(row.expand({rows, columns}));
}

TEST(SampleCuda, GreedyTakesTheLowestIdOfTheLikeliest) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t columns : {1, 7, 1000, 131072}) {
      at::manual_seed(columns);
      at::Tensor logits = at::randn({2, columns}).to(type);
      if (columns > 7) logits[0][columns - 1] = logits[0][columns / 2] = logits[0][3] = 9;
      const auto ids = by_kernel(fenced(logits), {.temperature = 0});
      EXPECT_EQ(ids[0], logits[0].argmax().item<int64_t>()) << columns;
      EXPECT_EQ(ids[1], logits[1].argmax().item<int64_t>()) << columns;
      EXPECT_TRUE(columns <= 7 || ids[0] == 3);
    }
  }
  EXPECT_EQ(by_kernel(fenced(at::tensor({-0.F, 0.F}).view({1, 2})), {.temperature = 0})[0], 0);
  EXPECT_EQ(by_kernel(fenced(at::tensor({-5.F, -3.F, -4.F}).view({1, 3})), {.temperature = 0})[0],
            1);
}

TEST(SampleCuda, ARowThatIsNotFiniteGivesNoToken) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const double temperature : {0.0, 1.0}) {
      at::Tensor logits = at::zeros({5, 9}).to(type);
      logits[0][4] = NAN;
      logits[1][4] = -NAN;
      logits[2][8] = kInfinity;
      logits[3].fill_(-kInfinity);
      logits[4].narrow(0, 1, 8).fill_(-kInfinity);  // one is left
      EXPECT_EQ(by_kernel(fenced(logits), {.temperature = temperature}),
                (std::vector<int64_t>{-1, -1, -1, -1, 0}));
    }
  }
}

// Every candidate is drawn, in its share, and nothing else is.
TEST(SampleCuda, DrawsWhatTheOptionsLeaveInItsShare) {
  constexpr int64_t kRows = 40;
  const std::vector<Options> all = {{.temperature = 1.5, .top_k = 15, .top_p = 0.8, .min_p = 0.3},
                                    {.top_p = 0.93},
                                    {},
                                    {.temperature = 0.7, .min_p = 0.2},
                                    {.min_p = 1},
                                    {.top_k = 1},
                                    {.top_k = 20},
                                    {.top_p = 0.01}};
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor logits = small_rows(kRows, 40, type);
    for (size_t i = 0; i < (type == at::kFloat ? all.size() : 2); ++i) {
      const auto wanted = candidates(logits[0], all[i]);
      std::map<int64_t, double> drawn;
      for (const int64_t id : list_of(draw(logits, all[i]))) drawn[id] += 1;
      by_kernel(logits.narrow(0, 0, 1), all[i]);
      double total = 0, chi_squared = 0;
      for (const auto& [id, weight] : wanted) total += weight;
      double often = 0;
      for (const auto& [id, weight] : wanted) {
        const double expected = kRows * weight / total;
        if (expected < 1) continue;
        ++often;
        chi_squared += std::pow(drawn[id] - expected, 2) / expected;
      }
      for (const auto& [id, count] : drawn)
        EXPECT_TRUE(count == 0 || wanted.contains(id)) << i << ": " << id;
      // Its mean is about their count, its deviation the root of twice that.
      EXPECT_LE(chi_squared, often + 5 * std::sqrt(2 * often)) << i;
    }
  }
}

// All weights alike: only ids decide, and which of them are left is seen in the draws.
TEST(SampleCuda, TiesAtTheEdgeAreKeptAsTheHostKeepsThem) {
  at::Tensor row = at::zeros({64});
  row[10] = 5;
  const at::Tensor logits = fenced(row.expand({48, 64}));
  const auto drawn = [&](const Options& options) {
    const auto ids = list_of(draw(logits, options));
    return std::set<int64_t>(ids.begin(), ids.end());
  };
  // A tie with the k-th stays, however many there are.
  EXPECT_GT(std::ssize(drawn({.temperature = 10, .top_k = 2})), 20);
  // Of ties at the edge of top-p the highest ids.
  const Options half{.temperature = 10, .top_p = 0.1};
  const auto wanted = candidates(row, half);
  std::set<int64_t> ids;
  for (const auto& [id, weight] : wanted) ids.insert(id);
  EXPECT_EQ(ids, (std::set<int64_t>{10, 59, 60, 61, 62, 63}));
  EXPECT_EQ(drawn(half), ids);
}

TEST(SampleCuda, TakesAWholeVocabulary) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(9);
    const at::Tensor logits = fenced(at::randn({2, 131072}).mul_(3).to(type));
    const Options options{.temperature = 0.8, .top_k = 50, .top_p = 0.9, .min_p = 0.05};
    const auto ids = by_kernel(logits, options);
    for (size_t row = 0; row < 2; ++row) {
      EXPECT_TRUE(candidates(logits[static_cast<int64_t>(row)], options).contains(ids[row]));
    }
  }
  EXPECT_NE(
      cuda::sample({.type = cuda::Type::kFloat, .rows = 1, .columns = cuda::kMostLogits + 1}, {}),
      0);
}

// Each draw depends on seed, offset and row alone.
TEST(SampleCuda, DrawsAreFixed) {
  const at::Tensor logits = fenced(at::zeros({3, 1000}));
  const auto first = by_kernel(logits, {.seed = 7, .offset = 3});
  EXPECT_EQ(by_kernel(logits, {.seed = 7, .offset = 3}), first);
  EXPECT_NE(by_kernel(logits, {.seed = 7, .offset = 4}), first);
  EXPECT_NE(by_kernel(logits, {.seed = 8, .offset = 3}), first);
  EXPECT_NE(first[0], first[1]);
  EXPECT_EQ(by_kernel(fenced(logits.narrow(0, 0, 1)), {.seed = 7, .offset = 3})[0], first[0]);
  // Philox 4x32-10 of nothing begins 6627e8d5 e169c58d (Random123's known answers); the draw is
  // that share of 2^16 tokens alike.
  const at::Tensor many = fenced(at::zeros({1, 1 << 16}));
  EXPECT_EQ(by_kernel(many, {.seed = 0})[0], 0xE169);
}

}  // namespace
}  // namespace trestle
