// Products and their gradients by both paths against fp64's: bf16 is rounded once, so the error is
// that of rounding the exact result.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "cpu/cpu.h"
#include "kernels/matrix_product.h"
#include "memory.h"

namespace trestle {
namespace {

using testing::peak_bytes;

// Rows, features out, features in. The last two are too large to be widened whole, odd where the
// tiles are even, and the last has more rows than are widened at a time.
struct Shape {
  int64_t M, N, K;
};
const std::vector<Shape> kShapes = {{0, 5, 7},  {1, 1, 1},       {1, 300, 70},    {3, 96, 128},
                                    {4, 64, 1}, {37, 1000, 200}, {5, 1153, 1031}, {515, 2049, 520}};

class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

at::Tensor random_bf16(at::IntArrayRef shape) { return at::randn(shape).to(at::kBFloat16); }

at::Tensor exact(const at::Tensor& x) { return x.detach().to(at::kDouble); }

// ||got - wanted|| is at most that of `wanted` rounded to bf16, and a hundredth for what fp32 sums.
void expect_rounded_once(const at::Tensor& got, const at::Tensor& wanted, const std::string& what) {
  ASSERT_EQ(got.scalar_type(), at::kBFloat16) << what;
  ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
  const double error = (exact(got) - wanted).norm().item<double>();
  const double rounding = (exact(wanted.to(at::kBFloat16)) - wanted).norm().item<double>();
  EXPECT_LE(error, 1.01 * rounding + 1e-6 * wanted.norm().item<double>()) << what;
}

class MatrixProduct : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { at::manual_seed(3); }
  ForcedBf16Path widened_{Bf16Path::kWidened};
  Threads threads_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Threads, MatrixProduct, ::testing::Values(1, 3));

TEST_P(MatrixProduct, WidenedIsRoundedOnce) {
  for (const auto& [M, N, K] : kShapes) {
    const std::string shape = fmt::format("{} x {} x {}", M, N, K);
    const at::Tensor a = random_bf16({M, K}), b = random_bf16({N, K}), bias = random_bf16({N});
    const at::Tensor up = random_bf16({M, N});
    const at::Tensor y = at::mm(exact(a), exact(b).t());
    expect_rounded_once(times_transposed(a, b), y, shape);
    if (M != 1)
      expect_rounded_once(times_transposed(a, b, bias), y + exact(bias), shape + ", bias");
    expect_rounded_once(times(up, b), at::mm(exact(up), exact(b)), shape + ", times");
    at::Tensor out = random_bf16({N + 2, K}).narrow(0, 1, N);
    transposed_times_out(out, up, a);
    expect_rounded_once(out, at::mm(exact(up).t(), exact(a)), shape + ", transposed times");
  }
}

// Twice rounded at most: the product, and the sum.
TEST_P(MatrixProduct, AddsIntoWhatIsThere) {
  for (const Bf16Path path : {Bf16Path::kWidened, Bf16Path::kNative}) {
    const ForcedBf16Path forced(path);
    for (const auto& [M, N, K] : kShapes) {
      const at::Tensor a = random_bf16({M, K}), b = random_bf16({N, K}), up = random_bf16({M, N});
      const auto check = [&](const at::Tensor& got, const at::Tensor& wanted) {
        const double error = (exact(got) - wanted).norm().item<double>();
        EXPECT_LE(error, wanted.norm().item<double>() / 128) << M << " x " << N << " x " << K;
      };
      at::Tensor y = random_bf16({M, N + 3}).narrow(1, 2, N),
                 x = random_bf16({M, K + 3}).narrow(1, 1, K);
      const at::Tensor wanted_y = exact(y) + 0.75 * at::mm(exact(a), exact(b).t());
      const at::Tensor wanted_x = exact(x) + at::mm(exact(up), exact(b));
      add_times_transposed(y, a, b, 0.75);
      add_times(x, up, b);
      check(y, wanted_y);
      check(x, wanted_x);
    }
  }
}

TEST_P(MatrixProduct, WidenedTakesRowsAndColumnsThatLieApart) {
  constexpr int64_t kM = 37, kN = 1100, kK = 1030;
  const at::Tensor a = random_bf16({kK, kM}).t(), up = random_bf16({kN, kM}).t();
  const at::Tensor wide = random_bf16({kN, kK + 9}), tall = random_bf16({kK, kN});
  for (const at::Tensor& b : {wide.narrow(1, 4, kK), tall.t()}) {
    expect_rounded_once(times_transposed(a, b), at::mm(exact(a), exact(b).t()), "x W^T");
    expect_rounded_once(times(up, b), at::mm(exact(up), exact(b)), "g W");
  }
  at::Tensor out = random_bf16({kN, kK + 9}).narrow(1, 4, kK);
  transposed_times_out(out, up, a);
  expect_rounded_once(out, at::mm(exact(up).t(), exact(a)), "g^T x");
}

TEST_P(MatrixProduct, WidenedGivesTheGradientsThatAreAskedFor) {
  for (const auto& [M, N, K] : kShapes) {
    for (const int asked : {0b100, 0b010, 0b110, 0b111}) {
      const std::string what = fmt::format("{} x {} x {}, asked {:03b}", M, N, K, asked);
      const at::Tensor a = random_bf16({M, K}).requires_grad_((asked & 0b100) != 0);
      const at::Tensor b = random_bf16({N, K}).requires_grad_((asked & 0b010) != 0);
      const at::Tensor bias = random_bf16({N}).requires_grad_((asked & 0b001) != 0);
      const at::Tensor up = random_bf16({M, N});
      torch::autograd::backward({times_transposed(a, b, bias)}, {up});
      ASSERT_EQ(a.grad().defined(), a.requires_grad()) << what;
      ASSERT_EQ(b.grad().defined(), b.requires_grad()) << what;
      ASSERT_EQ(bias.grad().defined(), bias.requires_grad()) << what;
      if (a.requires_grad()) expect_rounded_once(a.grad(), at::mm(exact(up), exact(b)), what);
      if (b.requires_grad()) expect_rounded_once(b.grad(), at::mm(exact(up).t(), exact(a)), what);
      if (bias.requires_grad()) expect_rounded_once(bias.grad(), exact(up).sum(0), what);
    }
  }
}

TEST_P(MatrixProduct, WidenedIsTheSameWithoutGradientsAndInInferenceMode) {
  const at::Tensor a = random_bf16({37, 1030}), b = random_bf16({1100, 1030});
  const at::Tensor training = times_transposed(a, b.clone().requires_grad_());
  EXPECT_TRUE(training.requires_grad());
  const c10::InferenceMode inference;
  EXPECT_TRUE(at::equal(times_transposed(a, b), training.detach()));
  // What is made in the mode is taken in it.
  EXPECT_TRUE(at::equal(times_transposed(a.clone(), b.clone()), training.detach()));
}

TEST_P(MatrixProduct, WidenedHoldsNoWeightInFp32) {
  const at::Tensor a = random_bf16({8, 4096}), b = random_bf16({4096, 4096});
  const int64_t weight = b.numel() * 4;
  const int64_t tiles = (5 << 20) * int64_t{GetParam()};
  EXPECT_LT(peak_bytes([&] { times_transposed(a, b); }), tiles) << "of " << weight;
  EXPECT_LT(peak_bytes([&] { times(a, b); }), tiles) << "of " << weight;
  at::Tensor out = at::empty_like(b);
  EXPECT_LT(peak_bytes([&] { transposed_times_out(out, a, a); }), 2 * tiles) << "of " << weight;
}

TEST(NativeMatrixProduct, IsLibtorchsToTheBit) {
  const ForcedBf16Path native(Bf16Path::kNative);
  at::manual_seed(3);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = at::randn({9, 40}).to(dtype), b = at::randn({30, 40}).to(dtype);
    const at::Tensor up = at::randn({9, 30}).to(dtype), bias = at::randn({30}).to(dtype);
    EXPECT_TRUE(at::equal(times_transposed(a, b, bias), at::linear(a, b, bias)));
    EXPECT_TRUE(at::equal(times(up, b), at::mm(up, b)));
    at::Tensor out = at::empty_like(b);
    transposed_times_out(out, up, a);
    EXPECT_TRUE(at::equal(out, at::mm(up.t(), a)));
  }
}

TEST(WidenedMatrixProduct, LeavesFp32AsItIs) {
  const ForcedBf16Path widened(Bf16Path::kWidened);
  at::manual_seed(3);
  const at::Tensor a = at::randn({9, 40}), b = at::randn({30, 40});
  EXPECT_TRUE(at::equal(times_transposed(a, b), at::linear(a, b)));
}

}  // namespace
}  // namespace trestle
