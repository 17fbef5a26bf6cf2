// Which layers each stage of a pipeline holds.
#include <gtest/gtest.h>

#include "../errors.h"
#include "parallel/stages.h"

namespace trestle {
namespace {

std::vector<int64_t> sizes(const LayerRuns& runs) {
  std::vector<int64_t> all;
  int64_t next = 0;
  for (const LayerRun& run : runs) {
    EXPECT_EQ(run.first, next);
    next = run.last;
    all.push_back(run.size());
  }
  return all;
}

using Sizes = std::vector<int64_t>;

TEST(Stages, HoldEveryPipelinethRun) {
  const Topology topology{.pipeline = 2, .virtual_pipeline = 2};
  const LayerRuns runs = equal_runs(topology, 8);
  EXPECT_EQ(sizes(runs), (Sizes{2, 2, 2, 2}));
  const Stage first = stage_of_runs(topology, runs, 0), last = stage_of_runs(topology, runs, 1);
  EXPECT_EQ(first.chunks, (LayerRuns{{0, 2}, {4, 6}}));
  EXPECT_EQ(last.chunks, (LayerRuns{{2, 4}, {6, 8}}));
  EXPECT_TRUE(first.is_first && !first.is_last && last.is_last && !last.is_first);
  EXPECT_TRUE(first.holds(4) && !first.holds(3) && !first.holds(8));
}

// megatron-core's get_num_layers_to_build.
TEST(Stages, UnequalOnesAreMegatrons) {
  const Topology four{.pipeline = 4};
  EXPECT_EQ(sizes(runs_of_layout(four, 26, {.in_first = 5})), (Sizes{5, 7, 7, 7}));
  EXPECT_EQ(sizes(runs_of_layout(four, 26, {.in_first = 5, .in_last = 7})), (Sizes{5, 7, 7, 7}));
  EXPECT_EQ(sizes(runs_of_layout(four, 26, {.counts_embedding = true, .counts_loss = true})),
            (Sizes{6, 7, 7, 6}));
  const Topology twice{.pipeline = 2, .virtual_pipeline = 2};
  EXPECT_EQ(sizes(runs_of_layout(twice, 6, {.counts_embedding = true, .counts_loss = true})),
            (Sizes{1, 2, 2, 1}));
  EXPECT_EQ(sizes(runs_of_layout(twice, 10, {.in_first = 4})), (Sizes{2, 3, 2, 3}));
  EXPECT_REFUSED(runs_of_layout(four, 26, {.in_first = 4}), "22 layers", "3 stages",
                 "model.num_layers_in_first_pipeline_stage=4");
  EXPECT_REFUSED(runs_of_layout({.pipeline = 2}, 26, {.in_first = 4, .in_last = 4}), "26 layers",
                 "are 8");
  EXPECT_REFUSED(runs_of_layout(twice, 12, {.in_first = 5}), "5 layers",
                 "model.virtual_pipeline_model_parallel_size=2");
  EXPECT_REFUSED(runs_of_layout(four, 26, {.in_first = 5, .counts_loss = true}), "give one pair");
  EXPECT_REFUSED(runs_of_layout({}, 26, {.in_first = 5}), "no effect", "leave it out");
  EXPECT_REFUSED(runs_of_layout({.pipeline = 3}, 2, {.counts_embedding = true}), "without a layer");
}

TEST(Stages, AreLevelledByCost) {
  const Topology four{.pipeline = 4};
  PartCosts costs{.layers = std::vector<double>(26, 1.0)};
  // A tower of three layers' cost, a head of two.
  costs.before = 3;
  costs.behind = 2;
  const LayerRuns runs = levelled_runs(four, costs);
  EXPECT_EQ(sizes(runs), (Sizes{4, 8, 8, 6}));
  EXPECT_LT(imbalance(four, runs, costs), imbalance(four, equal_runs(four, 26), costs));
  EXPECT_DOUBLE_EQ(imbalance(four, runs, costs), 8.0 * 4 / 31);
  // One that outweighs all layers still takes one of them.
  costs.before = 100;
  EXPECT_EQ(levelled_runs(four, costs).front().size(), 1);
  EXPECT_REFUSED(levelled_runs({.pipeline = 27}, costs), "PP 27", "27 runs", "26 layers");
}

// Against all ways to cut.
TEST(Stages, NoCutHasACheaperDearestStage) {
  PartCosts costs{.layers = {3, 1, 4, 1, 5, 9, 2}, .before = 4, .behind = 3};
  const Topology three{.pipeline = 3};
  double least = 1e9;
  for (int64_t a = 1; a < 6; ++a) {
    for (int64_t b = a + 1; b < 7; ++b) {
      least = std::min(least, imbalance(three, {{0, a}, {a, b}, {b, 7}}, costs));
    }
  }
  EXPECT_DOUBLE_EQ(imbalance(three, levelled_runs(three, costs), costs), least);
}

}  // namespace
}  // namespace trestle
