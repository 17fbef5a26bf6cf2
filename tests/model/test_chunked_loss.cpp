// The loss in pieces against torch's on whole logits: value, gradients, and what is held meanwhile.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "cpu/cpu.h"
#include "memory.h"
#include "model/chunked_loss.h"

namespace trestle {
namespace {

constexpr int64_t kRows = 37, kHidden = 64, kVocab = 1000;
// fp32 sums of a thousand terms in another order; a tenth of what gradients may be off.
constexpr double kGradient = 1e-5;
constexpr double kUp = 1.0 / 37;  // as a mean over the targets has it

struct Problem {
  at::Tensor x_ND, weight_VD, targets_N;

  explicit Problem(at::ScalarType dtype = at::kFloat) {
    at::manual_seed(11);
    x_ND = at::randn({kRows, kHidden}).to(dtype).requires_grad_();
    weight_VD = (at::randn({kVocab, kHidden}) * 0.3).to(dtype).requires_grad_();
    targets_N = at::randint(kVocab, {kRows}, at::kLong);
    targets_N[0] = 0;
    targets_N[1] = kVocab - 1;
    targets_N[3] = targets_N[2];
  }
  Problem in(at::ScalarType dtype) const {
    Problem other(*this);
    other.x_ND = x_ND.detach().to(dtype).requires_grad_();
    other.weight_VD = weight_VD.detach().to(dtype).requires_grad_();
    return other;
  }
};

struct Result {
  at::Tensor loss, dx_ND, dw_VD;
};

Result gradients(const Problem& problem, const at::Tensor& loss) {
  const auto found =
      torch::autograd::grad({loss * kUp}, {problem.x_ND, problem.weight_VD}, /*grad_outputs=*/{});
  return {loss.detach(), found[0], found[1]};
}

// The reference: torch's cross entropy of all logits, in fp32 where they are below it.
at::Tensor whole_loss(const at::Tensor& x_ND, const at::Tensor& weight_VD,
                      const at::Tensor& targets_N) {
  at::Tensor logits = at::linear(x_ND, weight_VD);
  if (logits.element_size() < 4) logits = logits.to(at::kFloat);
  return at::cross_entropy_loss(logits, targets_N, /*weight=*/{}, at::Reduction::Sum);
}

Result whole(const Problem& p) {
  return gradients(p, whole_loss(p.x_ND, p.weight_VD, p.targets_N));
}

Result chunked(const Problem& p, int64_t elements) {
  return gradients(p, chunked_cross_entropy(p.x_ND, p.weight_VD, p.targets_N, elements));
}

// max |got - wanted| / max |wanted|
double largest_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

// |got - wanted| / |wanted|, 2-norms.
double mean_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.to(at::kDouble);
  return ((got.to(at::kDouble) - w).norm() / w.norm()).item<double>();
}

class EverySize : public ::testing::TestWithParam<int64_t> {};

// One row at a time, five, all.
INSTANTIATE_TEST_SUITE_P(Elements, EverySize, ::testing::Values(1, 5 * kVocab + 7, kLogitsAtOnce));

TEST_P(EverySize, LossAndGradientsAreThoseOfWholeLogits) {
  const Problem problem;
  const Result wanted = whole(problem.in(at::kDouble));
  const Result got = chunked(problem, GetParam());
  EXPECT_EQ(got.loss.scalar_type(), at::kFloat);
  EXPECT_LE(largest_error(got.loss, wanted.loss), 1e-6);
  EXPECT_LE(largest_error(got.dx_ND, wanted.dx_ND), kGradient);
  EXPECT_LE(largest_error(got.dw_VD, wanted.dw_VD), kGradient);
}

TEST_P(EverySize, Bf16IsWithinATenthOfWholeLogits) {
  const Problem problem(at::kBFloat16);
  const Result wanted = whole(problem.in(at::kDouble));
  const Result before = whole(problem);
  const Result got = chunked(problem, GetParam());
  EXPECT_EQ(got.dx_ND.scalar_type(), at::kBFloat16);
  EXPECT_EQ(got.dw_VD.scalar_type(), at::kBFloat16);
  const auto expect_as_good = [&](at::Tensor Result::*part, const char* name) {
    const double limit = mean_error(before.*part, wanted.*part);
    // The gradient of x is rounded once more, when it is scaled.
    EXPECT_LE(mean_error(got.*part, wanted.*part), 1.1 * limit + 1e-7) << name;
  };
  expect_as_good(&Result::loss, "loss");
  expect_as_good(&Result::dx_ND, "gradient of x");
  expect_as_good(&Result::dw_VD, "gradient of the weight");
}

TEST(ChunkedLoss, ATiedWeightHasBothItsGradients) {
  const Problem problem;
  const at::Tensor ids = at::randint(kVocab, {kRows}, at::kLong);
  const auto gradient = [&](const auto& loss) {
    const at::Tensor x_ND = at::embedding(problem.weight_VD, ids);
    return torch::autograd::grad({loss(x_ND, problem.weight_VD, problem.targets_N)},
                                 {problem.weight_VD})[0];
  };
  const at::Tensor got = gradient([](const auto& x, const auto& w, const auto& t) {
    return chunked_cross_entropy(x, w, t, 3 * kVocab);
  });
  EXPECT_LE(largest_error(got, gradient(whole_loss)), kGradient);
}

TEST(ChunkedLoss, MakesOnlyTheGradientsThatAreAskedFor) {
  for (const bool x_trains : {false, true}) {
    for (const bool weight_trains : {false, true}) {
      Problem problem;
      const Result wanted = whole(problem);
      problem.x_ND.requires_grad_(x_trains);
      problem.weight_VD.requires_grad_(weight_trains);
      const at::Tensor loss =
          chunked_cross_entropy(problem.x_ND, problem.weight_VD, problem.targets_N, 5 * kVocab);
      ASSERT_EQ(loss.requires_grad(), x_trains || weight_trains);
      if (!loss.requires_grad()) continue;
      (loss * kUp).backward();
      const auto expect = [](const at::Tensor& leaf, const at::Tensor& gradient) {
        ASSERT_EQ(leaf.grad().defined(), leaf.requires_grad());
        if (leaf.requires_grad()) {
          EXPECT_LE(largest_error(leaf.grad(), gradient), kGradient);
        }
      };
      expect(problem.x_ND, wanted.dx_ND);
      expect(problem.weight_VD, wanted.dw_VD);
    }
  }
}

TEST(ChunkedLoss, OfNoRowsIsZero) {
  const Problem problem;
  const at::Tensor loss = chunked_cross_entropy(problem.x_ND.narrow(0, 0, 0), problem.weight_VD,
                                                problem.targets_N.narrow(0, 0, 0));
  EXPECT_EQ(loss.item<double>(), 0);
  loss.backward();
  EXPECT_FALSE(problem.weight_VD.grad().any().item<bool>());
}

TEST(ChunkedLoss, RefusesATargetOutsideTheVocabulary) {
  const Problem problem;
  problem.targets_N[5] = kVocab;
  EXPECT_ANY_THROW(chunked_cross_entropy(problem.x_ND, problem.weight_VD, problem.targets_N));
}

TEST(ChunkedLoss, NeverHoldsWholeLogits) {
  constexpr int64_t rows = 256, vocab = 16384, at_once = int64_t{1} << 18;
  const int64_t whole_bytes = rows * vocab * 4, chunk_bytes = at_once * 4;
  at::Tensor x_ND = at::randn({rows, kHidden}).to(at::kBFloat16).requires_grad_();
  at::Tensor weight_VD = at::randn({vocab, kHidden}).to(at::kBFloat16);
  const at::Tensor targets_N = at::randint(vocab, {rows}, at::kLong);
  const auto chunks = [&] {
    chunked_cross_entropy(x_ND, weight_VD, targets_N, at_once).backward();
  };
  const int64_t before =
      testing::peak_bytes([&] { whole_loss(x_ND, weight_VD, targets_N).backward(); });
  EXPECT_GE(before, 2 * whole_bytes);
  // A weight as small as this one is widened whole where bf16 is (4 MiB), and its product with it.
  const int64_t wide = bf16_path() == Bf16Path::kWidened ? vocab * kHidden * 4 + chunk_bytes : 0;
  // Logits in fp32, beside them in bf16, and rows of x.
  EXPECT_LE(testing::peak_bytes(chunks), 2 * chunk_bytes + 4 * rows * kHidden * 2 + wide);
  weight_VD.requires_grad_();
  // The gradient itself, and its turned copy in a product perhaps.
  EXPECT_LE(testing::peak_bytes(chunks), 3 * chunk_bytes + 2 * vocab * kHidden * 2 + wide);
}

}  // namespace
}  // namespace trestle
