// Attention of packed rows: which way it goes, and that the way of a card gives what padding gives.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "flash_on_cpu.h"
#include "model/attention.h"

namespace trestle {
namespace {

using testing::FlashOnCpu;

TEST(AttentionPath, FollowsDeviceDtypeAndLengths) {
  struct Case {
    const char* what;
    std::vector<int64_t> lengths;
    at::DeviceType device;
    at::ScalarType dtype;
    int64_t head_dim;
    AttentionPath wanted;
  };
  using enum AttentionPath;
  const std::vector<int64_t> unlike = {3000, 1096}, one = {4096}, short_one = {512};
  for (const Case& each : {
           Case{"packed", unlike, at::kCUDA, at::kBFloat16, 128, kPacked},
           Case{"packed in fp16", unlike, at::kCUDA, at::kHalf, 64, kPacked},
           Case{"one long sequence", one, at::kCUDA, at::kBFloat16, 128, kPadded},
           Case{"long ones of one length", {2048, 2048}, at::kCUDA, at::kBFloat16, 128, kPadded},
           Case{"a short sequence", short_one, at::kCUDA, at::kBFloat16, 128, kPacked},
           Case{"short ones of one length", {512, 512}, at::kCUDA, at::kBFloat16, 128, kPacked},
           Case{"a single token", {1}, at::kCUDA, at::kBFloat16, 128, kPacked},
           Case{"fp32", unlike, at::kCUDA, at::kFloat, 128, kPadded},
           Case{"an odd head", unlike, at::kCUDA, at::kBFloat16, 100, kPadded},
           Case{"a wide head", unlike, at::kCUDA, at::kBFloat16, 264, kPadded},
           Case{"the CPU", unlike, at::kCPU, at::kBFloat16, 128, kPadded},
           Case{"no values", unlike, at::kMeta, at::kBFloat16, 128, kPadded},
       }) {
    EXPECT_EQ(attention_path(Packing(each.lengths), each.device, each.dtype, each.head_dim),
              each.wanted)
        << each.what;
  }
}

TEST(Packing, OffsetsSayWhereSequencesBegin) {
  const Packing packing({3, 1, 5});
  EXPECT_TRUE(at::equal(packing.offsets(), at::tensor({0, 3, 4, 9}, at::kInt)));
  EXPECT_TRUE(at::equal(Packing({4}).to(at::kCPU).offsets(), at::tensor({0, 4}, at::kInt)));
  EXPECT_TRUE(Packing({4, 2}).to(at::kMeta).offsets().is_meta());
}

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

// q of its own dimension: [T, G, N, H] or [T, heads, H].
template <class Attention>
Result run(const Attention& attention, const at::Tensor& q, const Packing& packing) {
  at::manual_seed(4);
  // Views, as the projections give them.
  const at::Tensor kv = at::randn({q.size(0), q.size(1), 2, q.size(-1)}).requires_grad_();
  const at::Tensor y = attention(q, kv.select(2, 0), kv.select(2, 1), packing);
  return {y, torch::autograd::grad({y}, {q, kv}, {at::randn(y.sizes())})};
}

template <class Attention>
void expect_the_same(const Attention& attention, at::IntArrayRef q_shape, const Packing& packing) {
  at::manual_seed(3);
  const at::Tensor q = at::randn(q_shape).requires_grad_();
  const Result padded = run(attention, q, packing);
  const FlashOnCpu flash;
  const Result packed = run(attention, q, packing);
  EXPECT_EQ(flash.counts().forwards, 1);
  EXPECT_EQ(flash.counts().backwards, 1);
  EXPECT_TRUE(at::allclose(packed.y, padded.y, 1e-5, 1e-5));
  for (size_t i = 0; i < packed.gradients.size(); ++i) {
    EXPECT_TRUE(at::allclose(packed.gradients[i], padded.gradients[i], 1e-5, 1e-5)) << i;
  }
}

TEST(PackedAttention, IsPaddedAttentionOfGroupedQueries) {
  for (const auto& lengths : std::vector<std::vector<int64_t>>{{7, 1, 30, 6}, {5, 5}, {9}}) {
    const Packing packing(lengths);
    expect_the_same(causal_attention, {packing.tokens(), 2, 3, 16}, packing);
  }
}

TEST(PackedAttention, TakesPicturesOfAnySizesInOneCall) {
  const Packing packing({6, 6, 20, 1});
  expect_the_same(block_attention, {packing.tokens(), 4, 8}, packing);
}

}  // namespace
}  // namespace trestle
