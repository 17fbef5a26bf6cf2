// Where a sample is long or lies behind another, its own positions count.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/ministral3.h"
#include "model/rope.h"

namespace trestle {
namespace {

// As the three sizes have it.
RopeConfig ministral3_rope() {
  RopeConfig rope;
  rope.llama_4_scaling_beta = 0.1;
  rope.llama_4_original_max_position_embeddings = 16384;
  return rope;
}

// users' pain point 16: scale from wrong positions.
TEST(Positions, TheQueryScaleFollowsThoseOfEachSample) {
  const int64_t length = 32770;
  // Two samples in one row: the second begins at position 0 again.
  const ModelInput input = ModelInput::make(at::zeros({2 * length}, at::kLong), {length, length});
  const at::Tensor scale = llama_4_query_scale(ministral3_rope(), input.positions_T, at::kDouble);
  ASSERT_EQ(scale.numel(), 2 * length);
  for (const int64_t start : {int64_t{0}, length}) {
    const auto at_position = [&](int64_t position) {
      return scale[start + position].item<double>();
    };
    EXPECT_EQ(at_position(0), 1);
    EXPECT_EQ(at_position(16383), 1);
    EXPECT_NEAR(at_position(16384), 1 + 0.1 * std::log(2.0), 1e-6);
    EXPECT_NEAR(at_position(32767), 1 + 0.1 * std::log(2.0), 1e-6);
    EXPECT_NEAR(at_position(32768), 1 + 0.1 * std::log(3.0), 1e-6);
  }
}

}  // namespace
}  // namespace trestle
