// A topology rehearsed on threads, and a rehearsal that finds what is wrong.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bridge/load.h"
#include "checkpoint/hf_config.h"
#include "errors.h"
#include "model/ministral3.h"
#include "planner/shape.h"
#include "recipes/recipes.h"
#include "rehearse/rehearsal.h"
#include "rehearse/shrink.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::TempDir;

constexpr const char* kDemo = "../assets/demo/model";

TrainConfig config_of(const std::filesystem::path& model) {
  TrainConfig config = demo_config();
  config.checkpoint.pretrained_checkpoint = model.string();
  config.dataset.path_or_dataset = "../assets/demo/data";
  config.train.global_batch_size = 4;
  config.train.micro_batch_size = 1;
  config.checkpoint.save = (model.parent_path() / "run").string();
  return config;
}

TEST(Shrink, KeepsWhatTopologiesDependOn) {
  const Topology topology{.tensor = 4, .pipeline = 2, .virtual_pipeline = 2};
  const ModelConfig real = ministral3_of_size("8b");
  const Json json = shrunk_config(OpenCheckpoint(kDemo).config_json(), real, topology);
  const ModelConfig shrunk = parse_hf_config(json, "shrunk");
  EXPECT_EQ(shrunk.text.num_attention_heads, 32);
  EXPECT_EQ(shrunk.text.num_query_groups, 8);
  EXPECT_EQ(shrunk.text.num_layers, 8);
  EXPECT_FALSE(shrunk.text.tie_word_embeddings);
  EXPECT_EQ(shrunk.text.head_dim * 32 / 4 % 64, 0);
  EXPECT_EQ(shrunk.text.intermediate_size / 4 % 64, 0);
  EXPECT_LT(shrunk.text.hidden_size, 100);
  EXPECT_TRUE(shrunk_config(OpenCheckpoint(kDemo).config_json(), ministral3_of_size("3b"), {})
                  .at("tie_word_embeddings"));
}

TEST(Rehearsal, DataRanksAreEqualToOne) {
  const TempDir temp;
  write_shrunk_model(kDemo, ministral3_of_size("3b"), {.data = 2}, 5, temp / "model");
  const Rehearsal rehearsal = Rehearser(config_of(temp / "model"), 2).on({.data = 2});
  ASSERT_EQ(rehearsal.numbers.size(), 9);
  for (const RehearsedNumber& number : rehearsal.numbers) {
    EXPECT_LE(number.difference, 1e-5) << number.name;
    EXPECT_NE(number.one, 0) << number.name;
  }
  EXPECT_TRUE(rehearsal.is_equal());
  const auto gradients =
      std::ranges::find(rehearsal.traffic, "gradients", &RehearsedTraffic::group);
  ASSERT_NE(gradients, rehearsal.traffic.end());
  EXPECT_EQ(gradients->ranks, 2);
  EXPECT_GT(gradients->bytes, 0);
}

TEST(Rehearsal, ADifferenceIsNoEquality) {
  Rehearsal rehearsal;
  rehearsal.numbers = {{"loss", 1, 1, 0}, {"norm", 2, 2.0001, 5e-5}};
  EXPECT_FALSE(rehearsal.is_equal());
  rehearsal.numbers.back().difference = std::nan("");
  EXPECT_FALSE(rehearsal.is_equal());
  rehearsal.numbers.pop_back();
  EXPECT_TRUE(rehearsal.is_equal());
}

}  // namespace
}  // namespace trestle
