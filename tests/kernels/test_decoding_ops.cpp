// The operators of a decode step, by libtorch and by the CUDA kernels that the emulator runs:
// attention behind a cache of fixed capacity, the choice of tokens, products with codes.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda_testing.h"
#include "kernels/decode_attention.h"
#include "kernels/emulated.h"
#include "kernels/row_product.h"
#include "kernels/sample.h"

namespace trestle {
namespace {

using namespace testing;

class DecodingOps : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, DecodingOps, ::testing::Values(at::kFloat, at::kBFloat16));

// Views of one fused tensor, as the decoder has them, and parts of their own.
TEST_P(DecodingOps, AttentionStoresTheTokenAndAttendsUpToIt) {
  constexpr int64_t B = 3, G = 2, N = 3, H = 16, capacity = 11;
  at::manual_seed(1);
  const at::Tensor qkv = at::randn({B, G, N + 2, H}).to(GetParam());
  const at::Tensor before_k = at::randn({B, G, capacity, H}).to(GetParam());
  const at::Tensor before_v = at::randn({B, G, capacity, H}).to(GetParam());
  const at::Tensor positions = at::tensor({0, 10, 4}, at::kLong);
  for (const bool by_kernel : {false, true}) {
    for (const bool views : {false, true}) {
      const auto part = [&](const at::Tensor& x) { return views ? x : x.contiguous(); };
      const at::Tensor keys = before_k.clone(), values = before_v.clone();
      const auto run = [&] {
        return decode_attention(part(qkv.narrow(2, 0, N)), part(qkv.select(2, N)),
                                part(qkv.select(2, N + 1)), keys, values, positions);
      };
      at::Tensor y;
      if (by_kernel) {
        const EmulatedKernels kernels;
        y = run();
        EXPECT_EQ(EmulatedKernels::calls(),
                  (std::map<std::string, int64_t>{{"decode_attention", 1}}));
      } else {
        y = run();
      }
      for (int64_t b = 0; b < B; ++b) {
        const int64_t last = positions[b].item<int64_t>();
        EXPECT_TRUE(at::equal(keys[b].select(1, last), qkv[b].select(1, N)));
        EXPECT_TRUE(at::equal(values[b].select(1, last), qkv[b].select(1, N + 1)));
        const auto held = [&](const at::Tensor& slab) {
          return exact(slab[b].narrow(1, 0, last + 1));
        };
        const at::Tensor scores =
            at::matmul(exact(qkv[b].narrow(1, 0, N)), held(keys).transpose(1, 2)) / std::sqrt(16.0);
        expect_exact(y[b].view({G, N, H}), at::matmul(scores.softmax(-1), held(values)),
                     by_kernel ? "kernel" : "operators", by_kernel ? 1 : 2);
      }
      const at::Tensor others =
          at::ones({B, 1, capacity, 1}, at::kBool).scatter(2, positions.view({-1, 1, 1, 1}), false);
      EXPECT_TRUE(at::equal(keys.masked_select(others), before_k.masked_select(others)));
    }
  }
}

TEST_P(DecodingOps, TokensAreTheLikeliestWithTheLowestId) {
  const at::Tensor logits =
      at::tensor({0.F,       3.F,       3.F, -1.F,     NAN, 1.F, 2.F,  3.F,  -INFINITY, -INFINITY,
                  -INFINITY, -INFINITY, 5.F, INFINITY, 0.F, 0.F, -2.F, -1.F, -3.F,      -4.F})
          .view({5, 4})
          .to(GetParam());
  const at::Tensor wanted = at::tensor({1, -1, -1, -1, 1}, at::kLong);
  const at::Tensor step = at::zeros({1}, at::kLong);
  at::Tensor ids = at::full({5}, 9, at::kLong);
  sample_out(ids, logits, {}, step);
  EXPECT_TRUE(at::equal(ids, wanted)) << ids;
  const EmulatedKernels kernels;
  ids.fill_(9);
  sample_out(ids, logits, {}, step);
  EXPECT_TRUE(at::equal(ids, wanted)) << ids;
  EXPECT_EQ(EmulatedKernels::calls().at("sample"), 1);
}

TEST(DecodingOps, DrawsNeedKernelsAndDependOnTheStep) {
  const DeviceSampling drawn{.temperature = 1, .top_k = 40, .top_p = 0.9, .min_p = 0, .seed = 7};
  EXPECT_FALSE(can_sample(drawn, at::kCPU, at::kFloat, 100));
  EXPECT_TRUE(can_sample({}, at::kCPU, at::kFloat, 100));
  const EmulatedKernels kernels;
  EXPECT_TRUE(can_sample(drawn, at::kCPU, at::kFloat, 100));
  EXPECT_FALSE(can_sample(drawn, at::kCPU, at::kFloat, 1 << 20));
  at::manual_seed(2);
  const at::Tensor logits = at::randn({4, 100}), step = at::zeros({1}, at::kLong);
  const auto draw = [&](int64_t counter) {
    at::Tensor ids = at::empty({4}, at::kLong);
    step.fill_(counter);
    sample_out(ids, logits, drawn, step);
    return ids;
  };
  EXPECT_TRUE(at::equal(draw(0), draw(0)));
  EXPECT_FALSE(at::equal(draw(0), draw(1)));
  EXPECT_TRUE(at::equal(draw(3), draw(3)));
}

}  // namespace
}  // namespace trestle
