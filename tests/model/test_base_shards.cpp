// Frozen layers that ranks share out: what is gathered is what was taken, and in one order.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "linear/base_shards.h"
#include "model/recompute.h"
#include "parallel/world.h"

namespace trestle {
namespace {

std::vector<at::Tensor> layer_of(int64_t layer) {
  const auto number = static_cast<double>(layer);
  return {at::arange(35, at::kFloat).view({5, 7}).add(number).to(at::kBFloat16),
          at::full({3}, layer, at::kByte), at::Tensor(), at::full({2, 2}, number, at::kDouble)};
}

void expect_layer(const std::vector<at::Tensor>& tensors, int64_t layer) {
  const std::vector<at::Tensor> wanted = layer_of(layer);
  ASSERT_EQ(tensors.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_EQ(tensors[i].defined(), wanted[i].defined()) << i;
    if (!wanted[i].defined()) continue;
    EXPECT_TRUE(tensors[i].equal(wanted[i])) << "layer " << layer << ", tensor " << i;
    EXPECT_EQ(tensors[i].scalar_type(), wanted[i].scalar_type());
  }
}

class SharedOut : public ::testing::TestWithParam<int64_t> {
 protected:
  static void on_ranks(const std::function<void(BaseShards&, int64_t rank)>& look) {
    run_ranks(GetParam(), [&](const World& world) {
      std::vector<int64_t> all;
      for (int64_t rank = 0; rank < world.size(); ++rank) all.push_back(rank);
      BaseShards shards(world.group("data", all, at::kCPU));
      for (int64_t layer = 0; layer < 4; ++layer) shards.take(layer, layer_of(layer));
      look(shards, world.rank());
    });
  }
};

INSTANTIATE_TEST_SUITE_P(Ranks, SharedOut, ::testing::Values(2, 3, 4));

TEST_P(SharedOut, LayersComeBackAsTheyWere) {
  on_ranks([](BaseShards& shards, int64_t) {
    // 64 for each tensor's bytes, and of the sum every rank's share rounded up.
    EXPECT_LE(shards.bytes() * GetParam(), 4 * (3 * 64 + 64 + 64 * GetParam()));
    for (const int64_t layer : {0, 3, 3, 1, 2}) expect_layer(shards.tensors(layer), layer);
  });
}

// Ranks need different layers, or none, and gather the same ones.
TEST_P(SharedOut, APassIsOneOrderForAll) {
  on_ranks([](BaseShards& shards, int64_t rank) {
    for (int64_t turn = 0; turn < 3; ++turn) {
      shards.begin({0, 1, 2, 3});
      if (rank == 0) expect_layer(shards.tensors(2), 2);
      if (rank == 1) {
        for (int64_t layer = 0; layer < 4; ++layer) expect_layer(shards.tensors(layer), layer);
      }
      shards.end();
      shards.begin({3, 2, 1, 0});
      if (rank != 0) expect_layer(shards.tensors(3), 3);
      if (rank == 1) expect_layer(shards.tensors(0), 0);
      shards.end();
    }
    EXPECT_EQ(shards.group().traffic().bytes(),
              static_cast<double>((4 + 5 * 3) * shards.bytes() / 4 * (GetParam() - 1)));
  });
}

TEST_P(SharedOut, WhatIsOutsideOfItsPassIsAnError) {
  on_ranks([](BaseShards& shards, int64_t) {
    shards.begin({0, 1});
    EXPECT_THROW(shards.tensors(3), c10::Error);
  });
}

TEST(BackwardVisits, AreThoseOfRecompute) {
  using G = Recompute::Granularity;
  using M = Recompute::Method;
  const std::vector<int64_t> back = {6, 6, 5, 5, 4, 4, 3, 3, 2, 2};
  EXPECT_EQ(backward_visits(2, 7, {}), back);
  EXPECT_EQ(backward_visits(2, 7, {.granularity = G::kFull, .method = M::kBlock, .num_layers = 3}),
            back);
  EXPECT_EQ(
      backward_visits(2, 7, {.granularity = G::kFull, .method = M::kUniform, .num_layers = 2}),
      (std::vector<int64_t>{6, 6, 4, 5, 5, 4, 2, 3, 3, 2}));
}

}  // namespace
}  // namespace trestle
