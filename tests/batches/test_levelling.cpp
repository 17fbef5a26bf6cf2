// Samples that go from the rank that made them to the one that takes them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "batches/levelling.h"
#include "batches/sample_bytes.h"

namespace trestle {
namespace {

TEST(Levelling, BringsRanksCloseAndMovesLittle) {
  const std::vector<int64_t> costs = {100, 10, 90, 10, 80, 10, 10, 10};
  const std::vector<int64_t> owners = {0, 1, 0, 1, 0, 1, 0, 1};
  const std::vector<int64_t> takers = levelled(costs, owners, 2);
  std::vector<int64_t> load(2, 0);
  int64_t moved = 0;
  for (size_t i = 0; i < costs.size(); ++i) {
    load[static_cast<size_t>(takers[i])] += costs[i];
    moved += takers[i] != owners[i] ? 1 : 0;
  }
  EXPECT_EQ(load, (std::vector<int64_t>{170, 150}));
  EXPECT_EQ(moved, 2);
  EXPECT_EQ(levelled({5, 5, 5}, {0, 1, 2}, 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(levelled({7}, {2}, 4), (std::vector<int64_t>{2}));
}

TEST(SampleBytes, GiveTheSampleBack) {
  const at::Tensor wide = at::arange(3 * 4 * 10, at::kFloat).view({3, 4, 10});
  const Sample sample{.ids = {5, 10, 10, 7},
                      .labels = {-100, -100, 7, -100},
                      .images_CHW = {wide.slice(2, 0, 5), at::full({3, 2, 2}, 0.5)},
                      .image_spans = {{1, 2}, {2, 3}}};
  for (const Sample& each : {sample, Sample{.ids = {1}, .labels = {-100}, .images_CHW = {}}}) {
    const at::Tensor bytes = bytes_of_sample(each);
    EXPECT_EQ(bytes.numel(), size_in_bytes(each));
    const Sample back = sample_of_bytes(bytes);
    EXPECT_EQ(back.ids, each.ids);
    EXPECT_EQ(back.labels, each.labels);
    EXPECT_EQ(back.image_spans, each.image_spans);
    ASSERT_EQ(back.images_CHW.size(), each.images_CHW.size());
    for (size_t i = 0; i < each.images_CHW.size(); ++i) {
      EXPECT_TRUE(back.images_CHW[i].equal(each.images_CHW[i])) << i;
    }
  }
}

}  // namespace
}  // namespace trestle
