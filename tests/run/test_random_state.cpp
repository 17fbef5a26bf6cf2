// The random state of every rank, under the same topology and under others.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "errors.h"
#include "megatron/shard_writer.h"
#include "parallel/world.h"
#include "run/random_state.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::TempDir;

ShardPlan plan_of(const Topology& topology, int64_t rank) {
  return {topology, place_of(topology, rank)};
}

// Saves the states of ranks that were seeded with 10, 11, ...
void save(const std::filesystem::path& run, const Topology& topology) {
  std::vector<MegatronShards> shards;
  for (int64_t rank = 0; rank < topology.world(); ++rank) {
    at::manual_seed(10 + static_cast<uint64_t>(rank));
    shards.push_back({held_random_state(at::kCPU, plan_of(topology, rank))});
  }
  MegatronOutput output{.run = run};
  output.tensor_parallel = topology.tensor;
  output.pipeline_parallel = topology.pipeline;
  run_ranks(topology.world(), [&](const World& world) {
    std::vector<int64_t> all;
    for (int64_t rank = 0; rank < world.size(); ++rank) all.push_back(rank);
    write_megatron(output, shards[static_cast<size_t>(world.rank())],
                   world.group("all", all, at::kCPU));
  });
}

// What a rank draws next.
std::vector<float> drawn(const MegatronCheckpoint& checkpoint, const Topology& topology,
                         int64_t rank) {
  const at::Generator generator = at::detail::createCPUGenerator(99);
  load_random_state(generator, checkpoint, kRandomState, plan_of(topology, rank));
  const at::Tensor values = at::rand({4}, generator);
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + 4};
}

std::vector<float> drawn_by_seed(uint64_t seed) {
  const at::Tensor values = at::rand({4}, at::detail::createCPUGenerator(seed));
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + 4};
}

TEST(RandomState, IsEveryRanksOwn) {
  const TempDir scratch;
  const Topology four{.tensor = 2, .data = 2};
  save(scratch / "run", four);
  const MegatronCheckpoint checkpoint(scratch / "run");
  for (int64_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(drawn(checkpoint, four, rank), drawn_by_seed(10 + static_cast<uint64_t>(rank)));
  }
}

TEST(RandomState, UnderAnotherTopologyRanksOfTheSameRowsDrawTheSame) {
  const TempDir scratch;
  save(scratch / "four", {.data = 4});
  save(scratch / "one", {});
  for (const char* run : {"four", "one"}) {
    const MegatronCheckpoint checkpoint(scratch / run);
    EXPECT_EQ(drawn(checkpoint, {}, 0), drawn_by_seed(10)) << run;
    const Topology other{.tensor = 2, .data = 2};
    const auto first = drawn(checkpoint, other, 0), second = drawn(checkpoint, other, 2);
    EXPECT_EQ(first, drawn_by_seed(10));
    EXPECT_EQ(drawn(checkpoint, other, 1), first);
    EXPECT_EQ(drawn(checkpoint, other, 3), second);
    EXPECT_NE(first, second);
    EXPECT_NE(second, drawn(checkpoint, {.data = 3}, 2));
  }
}

TEST(RandomState, OfNoKnownFormIsRefused) {
  const TempDir scratch;
  MegatronShards shards;
  shards.tensors.push_back({.shard = whole_shard(kRandomState, {at::kByte, {1, 1, 4}}),
                            .data = at::zeros({4}, at::kByte)});
  write_megatron({.run = scratch / "run"}, shards, {});
  const MegatronCheckpoint checkpoint(scratch / "run");
  testing::expect_mentions(testing::error_of([&] { drawn(checkpoint, {}, 0); }),
                           {"trestle.rng_state has shape [1, 1, 4]"});
}

}  // namespace
}  // namespace trestle
