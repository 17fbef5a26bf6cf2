// Cross entropy's CUDA kernel, run on the CPU, against the formula in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/cross_entropy.h"
#include "kernels/cuda_testing.h"

namespace trestle {
namespace {

using namespace testing;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Shape {
  int64_t rows, columns;
};
// Less than a warp, single elements, whole vectors, the vocabulary of the models.
const std::vector<Shape> kShapes = {{0, 8},   {1, 1},     {3, 7},    {5, 1000},
                                    {2, 257}, {2, 32777}, {9, 4096}, {2, 131072}};

struct Block {
  at::Tensor logits, targets;
};

Block random_block(const Shape& shape, at::ScalarType type) {
  at::manual_seed(shape.rows + shape.columns);
  Block block{at::randn({shape.rows, shape.columns}).mul_(5).to(type),
              fenced(at::randint(shape.columns, {shape.rows}, at::kLong))};
  for (int64_t row = 1; row < shape.rows; row += 3) block.targets[row] = -100;
  return block;
}

// Losses, largest, sums and, where asked for, the gradient; else the logits.
std::vector<at::Tensor> by_kernel(const Block& block, bool gradient = true) {
  const int64_t rows = block.logits.size(0), columns = block.logits.size(1);
  const at::Tensor logits = fenced(block.logits);
  const at::Tensor numbers = fenced_empty({3, rows}, at::kFloat);
  EXPECT_EQ(cuda::cross_entropy({.type = type_of(logits),
                                 .rows = rows,
                                 .columns = columns,
                                 .logits = logits.mutable_data_ptr(),
                                 .targets = block.targets.const_data_ptr<int64_t>(),
                                 .losses = numbers[0].mutable_data_ptr<float>(),
                                 .largest = numbers[1].mutable_data_ptr<float>(),
                                 .sums = numbers[2].mutable_data_ptr<float>(),
                                 .gradient = gradient},
                                nullptr),
            0);
  return {numbers[0], numbers[1], numbers[2], logits};
}

// Losses and gradient.
std::vector<at::Tensor> by_formula(const Block& block) {
  const at::Tensor logits = exact(block.logits);
  const at::Tensor counts = block.targets.ge(0).to(at::kDouble);
  const at::Tensor targets = block.targets.clamp_min(0).unsqueeze(1);
  const at::Tensor logs = at::log_softmax(logits, 1);
  const at::Tensor gradient =
      logs.exp().scatter_add(1, targets, at::full({logits.size(0), 1}, -1, logits.options()));
  return {-logs.gather(1, targets).squeeze(1) * counts, gradient * counts.unsqueeze(1)};
}

TEST(CrossEntropyCuda, IsTheFormulaAndItsGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& shape : kShapes) {
      const std::string what =
          fmt::format("{} [{}, {}]", c10::toString(type), shape.rows, shape.columns);
      const Block block = random_block(shape, type);
      const auto wanted = by_formula(block);
      const auto got = in_every_order([&] { return by_kernel(block); });
      expect_near(got[0], wanted[0], 1e-6, what + ", losses");
      expect_exact(got[3], wanted[1], what + ", gradient");
      // Losses alone leave the logits; what they were made with makes softmax again.
      const auto alone = in_every_order([&] { return by_kernel(block, false); });
      EXPECT_TRUE(at::equal(alone[0], got[0])) << what;
      EXPECT_TRUE(at::equal(alone[3], block.logits)) << what;
      const at::Tensor softmax =
          (exact(block.logits) - exact(got[1]).unsqueeze(1)).exp() / exact(got[2]).unsqueeze(1);
      const at::Tensor counted = block.targets.ge(0).nonzero().view({-1});
      expect_near(softmax.index_select(0, counted),
                  at::softmax(exact(block.logits), 1).index_select(0, counted), 1e-6, what);
    }
  }
}

TEST(CrossEntropyCuda, TakesLogitsThatAreNotAligned) {
  const Block aligned = random_block({2, 64}, at::kFloat);
  const at::Tensor logits = at::empty({129}).narrow(0, 1, 128).copy_(aligned.logits.view({-1}));
  const at::Tensor losses = at::empty({2});
  EXPECT_EQ(cuda::cross_entropy({.type = cuda::Type::kFloat,
                                 .rows = 2,
                                 .columns = 64,
                                 .logits = logits.mutable_data_ptr(),
                                 .targets = aligned.targets.const_data_ptr<int64_t>(),
                                 .losses = losses.mutable_data_ptr<float>(),
                                 .largest = nullptr,
                                 .sums = nullptr,
                                 .gradient = true},
                                nullptr),
            0);
  const auto wanted = by_formula(aligned);
  expect_near(losses, wanted[0], 1e-6, "losses");
  expect_near(logits.view({2, 64}), wanted[1], 1e-5, "gradient");
}

TEST(CrossEntropyCuda, MaskedLogitsHaveNoShare) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    Block block = random_block({2, 4096}, type);
    block.targets.fill_(4095);
    block.logits.narrow(1, 0, 4000).fill_(-kInfinity);
    const auto wanted = by_formula(block);
    const auto got = in_every_order([&] { return by_kernel(block); });
    expect_near(got[0], wanted[0], 1e-6, "losses");
    expect_exact(got[3], wanted[1], "gradient");
    EXPECT_TRUE(got[3].narrow(1, 0, 4000).eq(0).all().item<bool>());
  }
}

TEST(CrossEntropyCuda, WhatIsNoNumberIsSeenInTheLoss) {
  const Block sound = random_block({1, 1000}, at::kFloat);
  const auto loss_with = [&](double value) {
    Block block{sound.logits.clone(), sound.targets};
    block.logits[0][777] = value;
    return by_kernel(block)[0].item<double>();
  };
  EXPECT_TRUE(std::isfinite(loss_with(0)));
  EXPECT_TRUE(std::isnan(loss_with(NAN)));
  EXPECT_TRUE(std::isnan(loss_with(kInfinity)));
  EXPECT_TRUE(std::isnan(
      by_kernel({at::full({1, 9}, -kInfinity), at::zeros({1}, at::kLong)})[0].item<double>()));
  EXPECT_TRUE(
      std::isnan(by_kernel({at::full({1, 9}, NAN), at::zeros({1}, at::kLong)})[0].item<double>()));
  EXPECT_TRUE(
      std::isnan(by_kernel({sound.logits, at::full({1}, 1000, at::kLong)})[0].item<double>()));
}

}  // namespace
}  // namespace trestle
