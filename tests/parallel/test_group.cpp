// Groups and their collectives over real Gloo backends, a thread a rank.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "errors.h"
#include "parallel/collectives.h"
#include "parallel/grid.h"
#include "parallel/world.h"

namespace trestle {
namespace {

using testing::error_of;
using testing::expect_mentions;

Group everyone(const World& world) {
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < world.size(); ++i) ranks.push_back(i);
  return world.group("all", ranks, at::kCPU);
}

at::Tensor of_rank(int64_t rank, at::IntArrayRef sizes) {
  return at::arange(1, 1 + c10::multiply_integers(sizes), at::kFloat).view(sizes) +
         100 * static_cast<double>(rank);
}

TEST(Group, ExchangesTensors) {
  run_ranks(3, [](const World& world) {
    const Group group = everyone(world);
    const int64_t me = group.rank();
    ASSERT_EQ(group.size(), 3);
    std::vector<at::Tensor> all;
    for (int64_t rank = 0; rank < 3; ++rank) all.push_back(of_rank(rank, {3, 2}));
    const at::Tensor sum = all[0] + all[1] + all[2];

    at::Tensor x = of_rank(me, {3, 2});
    group.all_reduce(x);
    EXPECT_TRUE(x.equal(sum));
    x = of_rank(me, {3, 2});
    group.all_reduce_max(x);
    EXPECT_TRUE(x.equal(all[2]));
    EXPECT_TRUE(group.all_gather(of_rank(me, {3, 2})).equal(at::cat(all)));
    EXPECT_TRUE(group.reduce_scatter(of_rank(me, {3, 2})).equal(sum.narrow(0, me, 1)));
    x = of_rank(me, {3, 2});
    group.broadcast(x, 1);
    EXPECT_TRUE(x.equal(all[1]));

    at::Tensor from = at::empty({3, 2});
    Pending sent = group.send(of_rank(me, {3, 2}), (me + 1) % 3);
    group.receive(from, (me + 2) % 3).wait();
    sent.wait();
    EXPECT_TRUE(from.equal(all[(me + 2) % 3]));

    EXPECT_EQ(group.sum(me + 1), 6);
    EXPECT_EQ(group.max(-me), 0);
    EXPECT_EQ(group.gather(std::string(me, 'x')), (std::vector<std::string>{"", "x", "xx"}));
  });
}

// What Gloo itself makes of a bf16 sum depends on the place in the tensor.
TEST(Group, SumsOfBf16AreRoundedOnce) {
  run_ranks(4, [](const World& world) {
    const Group group = everyone(world);
    const at::Tensor mine = at::full({1000}, world.rank() == 0 ? 256.0 : 1.0, at::kBFloat16);
    at::Tensor x = mine.clone();
    group.all_reduce(x);
    EXPECT_TRUE(x.equal(at::full({1000}, 259.0, at::kBFloat16)));
    EXPECT_TRUE(group.reduce_scatter(mine).equal(at::full({250}, 259.0, at::kBFloat16)));
  });
}

TEST(Group, OfOneDoesNothing) {
  const Group one;
  at::Tensor x = at::ones({2});
  const at::Tensor same = x;
  one.all_reduce(x);
  EXPECT_TRUE(x.is_same(same));
  EXPECT_TRUE(one.all_gather(x).is_same(x));
  EXPECT_TRUE(copy_to(x, one).is_same(x));
  EXPECT_TRUE(reduce_from(x, one).is_same(x));
  EXPECT_EQ(one.sum(7), 7);
  EXPECT_EQ(one.traffic().bytes(), 0);
}

TEST(Group, CountsWhatARankSends) {
  run_ranks(4, [](const World& world) {
    const Group group = everyone(world);
    at::Tensor x = at::ones({8, 4});
    group.all_reduce(x);
    group.all_gather(x);
    group.reduce_scatter(x);
    const Traffic traffic = group.traffic();
    EXPECT_EQ(traffic.of(Collective::kAllReduce).bytes, 2 * 128 * 3 / 4);
    EXPECT_EQ(traffic.of(Collective::kAllGather).bytes, 4 * 128 * 3 / 4);
    EXPECT_EQ(traffic.of(Collective::kReduceScatter).bytes, 128 * 3 / 4);
    EXPECT_EQ(traffic.of(Collective::kAllReduce).calls, 1);
    EXPECT_EQ(traffic.bytes(), 192 + 384 + 96);
  });
}

// A function of all ranks' inputs as one rank would compute it, and each rank's share of its
// gradient. f and the upstream weights are linear, so finite values are exact.
TEST(Collectives, AreEachOthersDuals) {
  run_ranks(2, [](const World& world) {
    const Group group = everyone(world);
    const int64_t me = group.rank();
    const auto gradient = [&](const auto& f, at::IntArrayRef in, const at::Tensor& up) {
      at::Tensor x = of_rank(me, in).requires_grad_();
      f(x).backward(up);
      return x.grad();
    };
    const at::Tensor up = of_rank(me, {2, 2}), sum = of_rank(0, {2, 2}) + of_rank(1, {2, 2});
    EXPECT_TRUE(
        gradient([&](const at::Tensor& x) { return copy_to(x, group); }, {2, 2}, up).equal(sum));
    EXPECT_TRUE(
        gradient([&](const at::Tensor& x) { return reduce_from(x, group); }, {2, 2}, up).equal(up));
    EXPECT_TRUE(gradient([&](const at::Tensor& x) { return gather_from(x, group); }, {1, 2}, up)
                    .equal(sum.narrow(0, me, 1)));
    const at::Tensor half = of_rank(me, {1, 2});
    const at::Tensor both = at::cat({of_rank(0, {1, 2}), of_rank(1, {1, 2})});
    EXPECT_TRUE(gradient([&](const at::Tensor& x) { return scatter_to(x, group); }, {2, 2}, half)
                    .equal(both));
    EXPECT_TRUE(gradient([&](const at::Tensor& x) { return slice_to(x, group); }, {2, 2}, half)
                    .equal(both));
    EXPECT_TRUE(slice_to(sum, group).equal(sum.narrow(0, me, 1)));
    EXPECT_TRUE(scatter_to(of_rank(me, {2, 2}), group).equal(sum.narrow(0, me, 1)));
  });
}

TEST(Grid, RanksAreInMegatronsOrder) {
  const Topology topology{.tensor = 2, .context = 2, .data = 3, .pipeline = 2};
  EXPECT_EQ(place_of(topology, 0), (Place{0, 0, 0, 0}));
  EXPECT_EQ(place_of(topology, 1), (Place{1, 0, 0, 0}));
  EXPECT_EQ(place_of(topology, 2), (Place{0, 1, 0, 0}));
  EXPECT_EQ(place_of(topology, 4), (Place{0, 0, 1, 0}));
  EXPECT_EQ(place_of(topology, 12), (Place{0, 0, 0, 1}));
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    EXPECT_EQ(rank_of(topology, place_of(topology, rank)), rank);
  }
}

TEST(Grid, GroupsHoldWhomTheyAreNamedFor) {
  run_ranks(8, [](const World& world) {
    const Grid grid(world, {.tensor = 2, .data = 2, .pipeline = 2}, at::kCPU);
    const int64_t bit = int64_t{1} << world.rank();
    const int64_t me = world.rank(), even = me & ~1;
    EXPECT_EQ(grid.tensor.sum(bit), 3 << even);
    EXPECT_TRUE(grid.context.is_one());
    EXPECT_EQ(grid.data.sum(bit), bit | int64_t{1} << (me ^ 2));
    EXPECT_EQ(grid.pipeline.sum(bit), bit | int64_t{1} << (me ^ 4));
    EXPECT_EQ(grid.gradients.sum(bit), bit | int64_t{1} << (me ^ 2));
    EXPECT_EQ(grid.whole_gradients.sum(bit), me < 4 ? 0x0f : 0xf0);
    EXPECT_EQ(grid.embedding.sum(bit), bit | int64_t{1} << (me ^ 4));
    EXPECT_EQ(grid.model.sum(bit), 0x33 << (me & 2));
    EXPECT_EQ(grid.world.sum(bit), 0xff);
  });
}

TEST(Grid, CanBeMadeTwice) {
  run_ranks(2, [](const World& world) {
    for (int i = 0; i < 8; ++i) {
      const Grid grid(world, {.data = 2}, at::kCPU);
      EXPECT_EQ(grid.data.sum(world.rank() + i), 1 + 2 * i);
    }
  });
}

TEST(Grid, TakesAsManyRanksAsThereAre) {
  run_ranks(2, [](const World& world) {
    const std::string error = error_of([&] { Grid(world, {.tensor = 4}, at::kCPU); });
    expect_mentions(error, {"2 ranks", "TP 4", "takes 4"});
  });
}

TEST(Ranks, TellTheFaultThatBeganIt) {
  const std::string error = error_of([] {
    run_ranks(2, [](const World& world) {
      const Group group = everyone(world);
      if (world.rank() == 1) user_error("row 7 is empty");
      group.barrier();
    });
  });
  EXPECT_EQ(error, "row 7 is empty");
}

TEST(Ranks, ALateRankIsAnErrorThatSaysWhere) {
  std::atomic<bool> done = false;
  const std::string error = error_of<LostRank>([&] {
    run_ranks(
        2,
        [&](const World& world) {
          const Group group = everyone(world);
          world.journal().at_step(3, "4, 5");
          if (world.rank() == 1) {
            while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(5));
            return;
          }
          try {
            group.barrier();
          } catch (...) {
            done = true;
            throw;
          }
        },
        std::chrono::milliseconds(300));
  });
  expect_mentions(error,
                  {"rank 0 of 2 of the all group", "all_reduce of [1]", "step 3, rows 4, 5"});
}

}  // namespace
}  // namespace trestle
