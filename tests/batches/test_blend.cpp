// Several data sets by weight: in which order, how often each row, and gone on with from a
// position.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <set>

#include "batches/sample_stream.h"
#include "data/blend.h"
#include "errors.h"
#include "temp_dir.h"

namespace trestle {
namespace {

std::vector<BlendPart> parts(const std::vector<double>& weights, int64_t rows = 7) {
  std::vector<BlendPart> parts;
  for (const double weight : weights) parts.push_back({rows, weight});
  return parts;
}

// The sets of the first samples, a digit each.
std::string sets(const std::vector<double>& weights, int64_t samples) {
  BlendOrder order(parts(weights), 1, true);
  std::string text;
  for (int64_t n = 0; n < samples; ++n) text += std::to_string(order.row(n) / 7);
  return text;
}

// What build_blending_indices of megatron-core 0.19.2 gives for the normalised weights.
TEST(Blend, SetsComeInMegatronsOrder) {
  EXPECT_EQ(sets({0.7, 0.3}, 40), "0100100100010010010001001001000100100100");
  EXPECT_EQ(sets({1, 1, 1}, 40), "0120120120120120120120120120120120120120");
  EXPECT_EQ(sets({5, 3, 1, 1}, 40), "0120301010012030101001203010100120301010");
  const std::vector<double> uneven = {0.012, 0.924, 0.005, 0.056, 0.002, 0.001};
  EXPECT_EQ(sets(uneven, 40), "1311111111110111111111131111111111111121");
  EXPECT_EQ(BlendOrder(parts(uneven), 1, true).counts(4000),
            (std::vector<int64_t>{48, 3696, 20, 224, 8, 4}));
}

// Of two sets within one sample at each place; of more Megatron's order is up to two off.
TEST(Blend, SharesAreThoseOfTheWeightsAtEachPlace) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> uniform(1e-3, 1);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<double> weights(2 + static_cast<size_t>(trial) % 6);
    double sum = 0;
    for (double& weight : weights) sum += weight = std::pow(uniform(random), 3);
    BlendOrder order(parts(weights), 0, false);
    for (int64_t n = 1; n <= 300; ++n) {
      const std::vector<int64_t> counts = order.counts(n);
      for (size_t i = 0; i < weights.size(); ++i) {
        const double wanted = weights[i] / sum * static_cast<double>(n);
        ASSERT_LE(std::abs(static_cast<double>(counts[i]) - wanted), weights.size() == 2 ? 1 : 2);
      }
    }
  }
}

TEST(Blend, ASmallSetRepeatsInItsOwnEpochs) {
  BlendOrder order({{100, 1}, {3, 1}}, 9, true);
  std::vector<int64_t> small;
  for (int64_t n = 0; n < 60; ++n) {
    const int64_t row = order.row(n);
    if (row >= 100) small.push_back(row - 100);
  }
  ASSERT_EQ(small.size(), 30u);
  std::set<std::vector<int64_t>> orders;
  for (size_t at = 0; at < small.size(); at += 3) {
    const std::vector<int64_t> epoch(small.begin() + static_cast<std::ptrdiff_t>(at),
                                     small.begin() + static_cast<std::ptrdiff_t>(at) + 3);
    EXPECT_EQ(std::set<int64_t>(epoch.begin(), epoch.end()).size(), 3u);
    orders.insert(epoch);
  }
  EXPECT_GT(orders.size(), 1u);
}

TEST(Blend, OfOneSetItIsTheSetsOwnOrder) {
  BlendOrder blend({{13, 0.5}}, 4, true);
  SampleOrder own(13, 4, true);
  for (int64_t n = 0; n < 40; ++n) EXPECT_EQ(blend.row(n), own.row(n));
}

TEST(Blend, AnyPlaceIsFoundFromAnyOther) {
  BlendOrder whole(parts({3, 2, 1}), 4, true);
  std::vector<int64_t> rows;
  for (int64_t n = 0; n < 50; ++n) rows.push_back(whole.row(n));
  for (const int64_t n : {31, 49, 0, 17, 16}) {
    EXPECT_EQ(BlendOrder(parts({3, 2, 1}), 4, true).row(n), rows[static_cast<size_t>(n)]);
    EXPECT_EQ(whole.row(n), rows[static_cast<size_t>(n)]);
  }
}

// Weights that change on the way: each set goes on with its own next row.
TEST(Blend, NewWeightsGoOnBehindWhatEachSetGave) {
  const auto before = parts({3, 1}, 50), after = parts({1, 3}, 50);
  BlendOrder first(before, 4, true), plain(after, 4, true);
  std::vector<int64_t> rows;
  for (int64_t n = 0; n < 16; ++n) rows.push_back(first.row(n));
  const BlendStart start{16, first.counts(16)};
  EXPECT_EQ(start.taken, (std::vector<int64_t>{12, 4}));
  BlendOrder rest(after, 4, true, start);
  for (int64_t n = 16; n < 48; ++n) rows.push_back(rest.row(n));
  EXPECT_EQ(std::set<int64_t>(rows.begin(), rows.end()).size(), rows.size());  // none twice
  EXPECT_EQ(rest.counts(48), (std::vector<int64_t>{12 + 8, 4 + 24}));
  EXPECT_EQ(std::ranges::count_if(rows, [](int64_t row) { return row >= 50; }), 28);
  // From their first row where nothing was taken of them.
  BlendOrder anew(after, 4, true, {16, {}});
  for (int64_t n = 0; n < 20; ++n) EXPECT_EQ(anew.row(16 + n), plain.row(n));
  EXPECT_EQ(rest.row(20), rows[20]);  // and back
}

TEST(Blend, SamplesForAllTakeEachRow) {
  for (const auto& weights : {std::vector{0.7, 0.3}, std::vector{0.9, 0.05, 0.04, 0.01}}) {
    BlendOrder order(parts(weights), 4, true);
    std::set<int64_t> seen;
    for (int64_t n = 0; n < order.samples_for_all(); ++n) seen.insert(order.row(n));
    EXPECT_EQ(seen.size(), 7 * weights.size());
  }
}

class BlendedSets : public testing::InDirectory<> {
 protected:
  // `rows` questions whose answers are of `letter`.
  BlendMember lines(const std::string& name, int64_t rows, char letter,
                    std::optional<double> weight) const {
    std::ofstream file(directory_ / name);
    for (int64_t row = 0; row < rows; ++row) {
      file
          << R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ")"
          << std::string(static_cast<size_t>(row + 1), letter) << "\"}]}\n";
    }
    return {"jsonl", {.path = directory_ / name, .key = "dataset.blend"}, weight};
  }

  static std::string answer(const Dataset& dataset, int64_t row) {
    return dataset.row(row).messages.back().parts.front().text;
  }
};

TEST_F(BlendedSets, RowsStandOneSetBehindTheOther) {
  const BlendedDataset blend(
      {lines("a.jsonl", 5, 'x', std::nullopt), lines("b.jsonl", 2, 'y', std::nullopt)});
  ASSERT_EQ(blend.size(), 7);
  EXPECT_EQ(answer(blend, 4), "xxxxx");
  EXPECT_EQ(answer(blend, 5), "y");
  EXPECT_EQ(blend.row_name(6, ""), "row 1 of " + (directory_ / "b.jsonl").string());
  EXPECT_EQ(blend.files().size(), 2u);
  // Without weights each weighs as many as it has rows.
  EXPECT_EQ(blend.parts()[0].weight, 5);
  EXPECT_EQ(blend.parts()[1].weight, 2);
  const auto said = blend.describe(14);
  ASSERT_EQ(said.size(), 2u);
  testing::expect_mentions(said[1], {"0.2857 of ", "b.jsonl (2 rows; 4 of 14 samples, 2 passes)"});
}

TEST_F(BlendedSets, AStreamGoesOnFromAPositionWhateverItsThreads) {
  const BlendedDataset blend({lines("a.jsonl", 5, 'x', 2), lines("b.jsonl", 3, 'y', 1)});
  const Processor processor("../assets/demo/model");
  const auto take = [&](int64_t workers, int64_t start, int64_t count) {
    StreamOptions options;
    options.seed = 7;
    options.max_length = 4096;
    options.workers = workers;
    options.start = start;
    SampleStream stream(blend, processor, options);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(stream.next().row);
    return rows;
  };
  const auto whole = take(0, 0, 30);
  EXPECT_EQ(std::ranges::count_if(whole, [](int64_t row) { return row >= 5; }), 10);
  EXPECT_EQ(take(3, 0, 30), whole);
  const auto rest = take(2, 17, 13);
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + 17));
}

TEST_F(BlendedSets, AnErrorNamesTheSetAndItsOwnRow) {
  const BlendedDataset blend({lines("a.jsonl", 3, 'x', 1), lines("b.jsonl", 40, 'y', 1)});
  const Processor processor("../assets/demo/model");
  StreamOptions options;
  options.shuffle = false;
  options.max_length = 12;
  options.name = "dataset.blend";
  SampleStream stream(blend, processor, options);
  const std::string said = testing::error_of([&] {
    for (int i = 0; i < 80; ++i) stream.next();
  });
  testing::expect_mentions(said, {" of " + (directory_ / "b.jsonl").string(), "model.seq_length"});
  EXPECT_REFUSED(
      BlendedDataset({lines("a.jsonl", 3, 'x', 1), {"jsonl", {.path = "nowhere.jsonl"}, 1}}),
      "nowhere.jsonl");
}

}  // namespace
}  // namespace trestle
