// Attention of one token a sequence by a CUDA kernel, run on the CPU, against fp64 attention over
// the keys that each sequence has.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "cuda/decode_attention.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

struct Case {
  int64_t groups, heads, head_dim, capacity;
  std::vector<int64_t> positions;
};
// One split and several, each end of one, every width of a lane's share, heads that fill no
// instance, a first token, a full cache.
const std::vector<Case> kCases = {{2, 4, 128, 9, {0, 3, 8}},        {1, 1, 8, 1, {0}},
                                  {2, 3, 48, 130, {127, 128, 129}}, {1, 8, 256, 5, {4}},
                                  {3, 2, 64, 300, {255, 256}},      {1, 5, 80, 20, {19, 1}},
                                  {1, 4, 32, 8200, {255, 300}}};

struct Data {
  at::Tensor qkv, keys, values, positions;
};

Data random_data(const Case& each, at::ScalarType type) {
  at::manual_seed(each.head_dim + each.capacity);
  const auto B = std::ssize(each.positions);
  const std::vector<int64_t> cache = {B, each.groups, each.capacity, each.head_dim};
  // What is not filled yet is never read.
  const at::Tensor filled = at::arange(each.capacity)
                                .view({1, 1, -1, 1})
                                .lt(at::tensor(each.positions).view({-1, 1, 1, 1}));
  const auto slab = [&] {
    return fenced(at::randn(cache).masked_fill(filled.logical_not(), NAN).to(type));
  };
  return {fenced(at::randn({B, each.groups, each.heads + 2, each.head_dim}).to(type)), slab(),
          slab(), fenced(at::tensor(each.positions, at::kLong))};
}

std::vector<at::Tensor> by_kernel(const Case& each, const Data& data) {
  const auto B = std::ssize(each.positions);
  const at::Tensor keys = fenced(data.keys), values = fenced(data.values);
  at::Tensor y = fenced_empty({B, each.groups, each.heads, each.head_dim}, keys.scalar_type());
  at::Tensor partial = fenced_empty(
      {cuda::decode_attention_partials(B, each.groups, each.heads, each.head_dim, each.capacity)},
      at::kFloat);
  const auto rows = [&](int64_t member) {
    return cuda::HeadRows{data.qkv.select(2, member).mutable_data_ptr(), data.qkv.stride(0),
                          data.qkv.stride(1)};
  };
  EXPECT_EQ(cuda::decode_attention({.type = type_of(y),
                                    .sequences = B,
                                    .groups = each.groups,
                                    .heads = each.heads,
                                    .head_dim = each.head_dim,
                                    .capacity = each.capacity,
                                    .q = rows(0),
                                    .k = rows(each.heads),
                                    .v = rows(each.heads + 1),
                                    .keys = keys.mutable_data_ptr(),
                                    .values = values.mutable_data_ptr(),
                                    .positions = data.positions.const_data_ptr<int64_t>(),
                                    .y = y.mutable_data_ptr(),
                                    .partial = partial.mutable_data_ptr<float>()},
                                   nullptr),
            0);
  return {y, keys, values};
}

class DecodeAttentionCuda : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, DecodeAttentionCuda, ::testing::Values(at::kFloat, at::kBFloat16));

TEST_P(DecodeAttentionCuda, AttendsToTheKeysThatThereAre) {
  for (const Case& each : kCases) {
    const Data data = random_data(each, GetParam());
    const auto got = in_every_order([&] { return by_kernel(each, data); });
    const std::string told = fmt::format("{} x {} heads of {}, capacity {}", each.groups,
                                         each.heads, each.head_dim, each.capacity);
    for (int64_t b = 0; b < std::ssize(each.positions); ++b) {
      const int64_t held = each.positions[static_cast<size_t>(b)];
      const auto with_new = [&](const at::Tensor& slab, int64_t member) {
        return at::cat({slab[b].narrow(1, 0, held), data.qkv[b].narrow(1, member, 1)}, 1);
      };
      const at::Tensor keys = with_new(data.keys, each.heads);
      const at::Tensor values = with_new(data.values, each.heads + 1);
      const at::Tensor scores =
          at::matmul(exact(data.qkv[b].narrow(1, 0, each.heads)), exact(keys).transpose(1, 2)) /
          std::sqrt(static_cast<double>(each.head_dim));
      expect_exact(got[0][b], at::matmul(scores.softmax(-1), exact(values)), told);
      EXPECT_TRUE(at::equal(got[1][b].narrow(1, 0, held + 1), keys)) << told;
      EXPECT_TRUE(at::equal(got[2][b].narrow(1, 0, held + 1), values)) << told;
      EXPECT_TRUE(got[1][b].slice(1, held + 1).isnan().all().item<bool>()) << told;
      EXPECT_TRUE(got[2][b].slice(1, held + 1).isnan().all().item<bool>()) << told;
    }
  }
}

TEST_P(DecodeAttentionCuda, APositionOutsideTheCapacityGivesNaNAndStoresNothing) {
  const Case each{2, 2, 16, 4, {4, 3, -1}};
  Data data = random_data(each, GetParam());
  const auto got = in_every_order([&] { return by_kernel(each, data); });
  EXPECT_TRUE(got[0][0].isnan().all().item<bool>());
  EXPECT_FALSE(got[0][1].isnan().any().item<bool>());
  EXPECT_TRUE(got[0][2].isnan().all().item<bool>());
  for (const int64_t b : {0, 2}) {
    EXPECT_TRUE(at::equal(got[1][b].nan_to_num(9), data.keys[b].nan_to_num(9)));
    EXPECT_TRUE(at::equal(got[2][b].nan_to_num(9), data.values[b].nan_to_num(9)));
  }
}

TEST(DecodeAttentionCuda, OtherShapesAreRefused) {
  EXPECT_TRUE(cuda::decode_attention_takes(4, 128));
  EXPECT_FALSE(cuda::decode_attention_takes(9, 128));
  EXPECT_FALSE(cuda::decode_attention_takes(0, 128));
  EXPECT_FALSE(cuda::decode_attention_takes(4, 33));
  EXPECT_FALSE(cuda::decode_attention_takes(4, 288));
  EXPECT_NE(cuda::decode_attention(
                {.sequences = 1, .groups = 1, .heads = 9, .head_dim = 128, .capacity = 4}, nullptr),
            0);
}

}  // namespace
}  // namespace trestle
