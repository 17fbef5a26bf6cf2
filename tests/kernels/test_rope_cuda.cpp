// The CUDA kernel that turns queries and keys, run on the CPU, against the formula in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "cuda/rope.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

// heads are the queries and the key of a group; its value lies behind them.
struct Shape {
  int64_t tokens, groups, heads, head_dim;
};
const std::vector<Shape> kShapes = {{0, 1, 2, 16}, {1, 1, 2, 2},   {3, 2, 3, 6},   {2, 8, 5, 128},
                                    {5, 2, 4, 96}, {2, 1, 16, 64}, {1, 1, 2, 1040}};

struct Turn {
  at::Tensor qkv_TGMH, cos_TH, sin_TH, scale_T;
};

Turn random_turn(const Shape& shape, at::ScalarType type) {
  const auto [T, G, M, H] = shape;
  at::manual_seed(T + H);
  const at::Tensor half = at::rand({T, H / 2}).mul_(6);
  const at::Tensor angles = at::cat({half, half}, -1);
  return {at::randn({T, G, M + 1, H}).to(type), fenced(angles.cos().to(type)),
          fenced(angles.sin().to(type)), fenced(at::rand({T}).add_(1).to(type))};
}

at::Tensor by_formula(const at::Tensor& x_TGMH, const Turn& turn, bool scaled) {
  const auto wide = [](const at::Tensor& table) { return exact(table).unsqueeze(1).unsqueeze(1); };
  const auto halves = x_TGMH.chunk(2, -1);
  const at::Tensor turned = at::cat({-halves[1], halves[0]}, -1);
  const at::Tensor y = x_TGMH * wide(turn.cos_TH) + turned * wide(turn.sin_TH);
  if (!scaled) return y;
  const int64_t queries = y.size(2) - 1;
  return at::cat(
      {y.narrow(2, 0, queries) * exact(turn.scale_T).view({-1, 1, 1, 1}), y.narrow(2, queries, 1)},
      2);
}

struct Options {
  bool scaled, backward, in_place;
};

// The heads of [tokens, groups, heads + 1, head_dim] turned, in place or into [tokens, groups,
// heads, head_dim].
at::Tensor by_kernel(const at::Tensor& qkv_TGMH, const Turn& turn, const Options& options) {
  const int64_t T = qkv_TGMH.size(0), G = qkv_TGMH.size(1), M = qkv_TGMH.size(2) - 1;
  const int64_t H = qkv_TGMH.size(3);
  const at::Tensor own = fenced(qkv_TGMH);
  at::Tensor apart = fenced_empty({T, G, M, H}, own.scalar_type());
  const cuda::HeadRows from{own.mutable_data_ptr(), G * (M + 1) * H, (M + 1) * H};
  const cuda::HeadRows to{apart.mutable_data_ptr(), G * M * H, M * H};
  EXPECT_EQ(cuda::rope({.type = type_of(own),
                        .tokens = T,
                        .groups = G,
                        .heads = M,
                        .head_dim = H,
                        .scaled_heads = M - 1,
                        .from = from,
                        .to = options.in_place ? from : to,
                        .cos = turn.cos_TH.const_data_ptr(),
                        .sin = turn.sin_TH.const_data_ptr(),
                        .query_scale = options.scaled ? turn.scale_T.const_data_ptr() : nullptr,
                        .backward = options.backward},
                       nullptr),
            0);
  // Values stay as they were.
  EXPECT_TRUE(at::equal(own.select(2, M), qkv_TGMH.select(2, M)));
  return options.in_place ? own.narrow(2, 0, M).contiguous() : apart;
}

TEST(RopeCuda, IsTheFormulaAndItsGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : kShapes) {
      const auto [T, G, M, H] = shape;
      for (const bool scaled : {false, true}) {
        const std::string what =
            fmt::format("{} [{}, {}, {}, {}], scaled {}", c10::toString(type), T, G, M, H, scaled);
        const Turn turn = random_turn(shape, type);
        const at::Tensor x = exact(turn.qkv_TGMH.narrow(2, 0, M)).requires_grad_();
        const at::Tensor up = at::randn({T, G, M + 1, H}).to(type);
        const at::Tensor y = by_formula(x, turn, scaled);
        torch::autograd::backward({y}, {exact(up.narrow(2, 0, M))});
        const auto got = in_every_order([&] {
          return std::vector{by_kernel(turn.qkv_TGMH, turn, {scaled, false, false}),
                             by_kernel(turn.qkv_TGMH, turn, {scaled, false, true}),
                             by_kernel(up, turn, {scaled, true, false}),
                             by_kernel(up, turn, {scaled, true, true})};
        });
        expect_exact(got[0], y.detach(), what);
        expect_exact(got[2], x.grad(), what + ", gradient");
        EXPECT_TRUE(at::equal(got[1], got[0])) << what;
        EXPECT_TRUE(at::equal(got[3], got[2])) << what;
      }
    }
  }
}

TEST(RopeCuda, RefusesAnOddHead) {
  EXPECT_NE(cuda::rope({.type = cuda::Type::kFloat, .tokens = 1, .head_dim = 5}, {}), 0);
}

}  // namespace
}  // namespace trestle
